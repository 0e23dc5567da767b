//! The names of a tree that is being written: directories, links and files by number, as POSIX wants them. Pure.
//!
//! A node keeps its number while it is renamed. One that has been unlinked lives on until nobody has it open.

use std::collections::BTreeMap;

use crate::archive::tree::Attributes;
use jiff::Timestamp;

/// Longest name of an entry, in bytes (`NAME_MAX`).
const NAME_BYTES: usize = 255;

/// Number of the tree's root directory.
pub const ROOT: u32 = 0;

/// Why an operation on names was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No entry of that name, or it is gone.
    #[error("no such file")]
    NotFound,
    /// There is an entry of that name.
    #[error("it exists")]
    Exists,
    /// A directory was meant.
    #[error("it is not a directory")]
    NotDirectory,
    /// A file was meant.
    #[error("it is a directory")]
    IsDirectory,
    /// The directory holds entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A directory cannot move into itself; the root has no other name.
    #[error("it cannot have that name")]
    Invalid,
    /// Longer than 255 bytes.
    #[error("the name is too long")]
    TooLong,
}

/// What a node is; `F` is the content of files.
#[derive(Debug)]
pub enum Kind<F> {
    /// A directory and what it holds, by name.
    Directory(BTreeMap<Box<[u8]>, u32>),
    /// A symbolic link's target.
    Symlink(Box<[u8]>),
    /// A regular file.
    File(F),
}

/// A node that is gone, with its number, if one is.
pub type Gone<F> = Option<(u32, Kind<F>)>;

#[derive(Debug)]
struct Node<F> {
    kind: Kind<F>,
    attributes: Attributes,
    /// The directory that holds it and its name there; `None` for the root, and once it is unlinked.
    place: Option<(u32, Box<[u8]>)>,
    opens: u32,
}

/// All names of a tree.
#[derive(Debug)]
pub struct Names<F> {
    /// By number; `None` once it is gone.
    nodes: Vec<Option<Node<F>>>,
}

impl<F> Names<F> {
    /// An empty root.
    pub fn new(root: Attributes) -> Self {
        let root = Node {
            kind: Kind::Directory(BTreeMap::new()),
            attributes: root,
            place: None,
            opens: 0,
        };
        Self {
            nodes: vec![Some(root)],
        }
    }

    /// What a node is.
    ///
    /// # Errors
    /// [`NameError::NotFound`] once it is gone.
    pub fn kind(&self, number: u32) -> Result<&Kind<F>, NameError> {
        Ok(&self.node(number)?.kind)
    }

    /// A node's attributes.
    ///
    /// # Errors
    /// [`NameError::NotFound`].
    pub fn attributes(&self, number: u32) -> Result<Attributes, NameError> {
        Ok(self.node(number)?.attributes)
    }

    /// The same, to be changed.
    ///
    /// # Errors
    /// [`NameError::NotFound`].
    pub fn attributes_mut(&mut self, number: u32) -> Result<&mut Attributes, NameError> {
        Ok(&mut self.node_mut(number)?.attributes)
    }

    /// The entry of a directory that has this name.
    ///
    /// # Errors
    /// [`NameError::NotFound`], [`NameError::NotDirectory`].
    pub fn child(&self, directory: u32, name: &[u8]) -> Result<u32, NameError> {
        let children = self.children(directory)?;
        children.get(name).copied().ok_or(NameError::NotFound)
    }

    /// What a directory holds, by name.
    ///
    /// # Errors
    /// [`NameError::NotFound`], [`NameError::NotDirectory`].
    pub fn children(&self, directory: u32) -> Result<&BTreeMap<Box<[u8]>, u32>, NameError> {
        match &self.node(directory)?.kind {
            Kind::Directory(children) => Ok(children),
            _ => Err(NameError::NotDirectory),
        }
    }

    /// The node of a path.
    pub fn find(&self, path: &[u8]) -> Option<u32> {
        let mut components = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        components.try_fold(ROOT, |at, name| self.child(at, name).ok())
    }

    /// A node's directory; its own number for the root, and for what is unlinked.
    pub fn parent(&self, number: u32) -> u32 {
        let place = self.node(number).ok().and_then(|node| node.place.as_ref());
        place.map_or(number, |(parent, _)| *parent)
    }

    /// A node's path from the root; `None` if it is unlinked.
    pub fn path(&self, number: u32) -> Option<Vec<u8>> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = number;
        while at != ROOT {
            let (parent, name) = self.node(at).ok()?.place.as_ref()?;
            names.push(name);
            at = *parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// A new entry.
    ///
    /// # Errors
    /// [`NameError::Exists`], [`NameError::TooLong`], and those of [`Names::children`].
    pub fn add(
        &mut self,
        directory: u32,
        name: &[u8],
        kind: Kind<F>,
        attributes: Attributes,
    ) -> Result<u32, NameError> {
        if name.len() > NAME_BYTES {
            return Err(NameError::TooLong);
        }
        if self.children(directory)?.contains_key(name) {
            return Err(NameError::Exists);
        }
        let number = u32::try_from(self.nodes.len()).map_err(|_| NameError::Invalid)?;
        self.nodes.push(Some(Node {
            kind,
            attributes,
            place: Some((directory, name.into())),
            opens: 0,
        }));
        self.link(directory, name, number)?;
        Ok(number)
    }

    /// Takes a file's or link's name away. Gives back its number if it is gone with that.
    ///
    /// # Errors
    /// [`NameError::IsDirectory`], and those of [`Names::child`].
    pub fn unlink(&mut self, directory: u32, name: &[u8]) -> Result<Gone<F>, NameError> {
        let number = self.child(directory, name)?;
        if matches!(self.kind(number)?, Kind::Directory(_)) {
            return Err(NameError::IsDirectory);
        }
        self.take_name(number)?;
        Ok(self.drop_if_unused(number))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`NameError::NotEmpty`], and those of [`Names::child`].
    pub fn remove_directory(&mut self, directory: u32, name: &[u8]) -> Result<(), NameError> {
        let number = self.child(directory, name)?;
        if !self.children(number)?.is_empty() {
            return Err(NameError::NotEmpty);
        }
        self.take_name(number)?;
        self.drop_if_unused(number);
        Ok(())
    }

    /// Gives an entry another name, in place of what has that name (rename(2)). Gives back what is gone with that.
    ///
    /// # Errors
    /// [`NameError::Exists`] if something has that name and `replace` is false; [`NameError::NotEmpty`],
    /// [`NameError::IsDirectory`], [`NameError::NotDirectory`] if it cannot be replaced; [`NameError::Invalid`] into
    /// itself.
    pub fn rename(
        &mut self,
        from: (u32, &[u8]),
        to: (u32, &[u8]),
        replace: bool,
    ) -> Result<Gone<F>, NameError> {
        let number = self.child(from.0, from.1)?;
        if to.1.len() > NAME_BYTES {
            return Err(NameError::TooLong);
        }
        self.check_outside(number, to.0)?;
        let replaced = self.children(to.0)?.get(to.1).copied();
        match replaced {
            Some(same) if same == number => return Ok(None),
            Some(_) if !replace => return Err(NameError::Exists),
            Some(other) => self.check_replaceable(number, other)?,
            None => {}
        }
        if let Some(other) = replaced {
            self.take_name(other)?;
        }
        self.take_name(number)?;
        self.node_mut(number)?.place = Some((to.0, to.1.into()));
        self.link(to.0, to.1, number)?;
        Ok(replaced.and_then(|other| self.drop_if_unused(other)))
    }

    /// Puts a directory into the place of a link, whose own directory looks as if nothing had changed.
    ///
    /// # Errors
    /// [`NameError::NotFound`].
    pub fn follow_link(&mut self, link: &[u8], directory: &[u8]) -> Result<(), NameError> {
        let (home, link) = self.place(link)?;
        let (parent, name) = self.place(directory)?;
        let attributes = self.attributes(home)?;
        self.unlink(home, &link)?;
        self.rename((parent, &name), (home, &link), false)?;
        *self.attributes_mut(home)? = attributes;
        Ok(())
    }

    /// The directory that holds what has that path, and its name there.
    fn place(&self, path: &[u8]) -> Result<(u32, Box<[u8]>), NameError> {
        let node = self.node(self.find(path).ok_or(NameError::NotFound)?)?;
        node.place.clone().ok_or(NameError::NotFound)
    }

    /// One more who has it open.
    ///
    /// # Errors
    /// [`NameError::NotFound`].
    pub fn open(&mut self, number: u32) -> Result<(), NameError> {
        self.node_mut(number)?.opens += 1;
        Ok(())
    }

    /// One fewer. Gives it back if it is gone with that.
    pub fn close(&mut self, number: u32) -> Gone<F> {
        let node = self.node_mut(number).ok()?;
        node.opens = node.opens.saturating_sub(1);
        self.drop_if_unused(number)
    }

    /// How many have it open.
    pub fn opens(&self, number: u32) -> u32 {
        self.node(number).map_or(0, |node| node.opens)
    }

    /// All nodes that have a name, in no order.
    pub fn all(&self) -> impl Iterator<Item = (u32, &Kind<F>)> {
        let named = |(number, node)| {
            let node: &Option<Node<F>> = node;
            let node = node.as_ref()?;
            (number == ROOT || node.place.is_some()).then_some((number, &node.kind))
        };
        (0..).zip(&self.nodes).filter_map(named)
    }

    fn node(&self, number: u32) -> Result<&Node<F>, NameError> {
        let node = self.nodes.get(number as usize).and_then(Option::as_ref);
        node.ok_or(NameError::NotFound)
    }

    fn node_mut(&mut self, number: u32) -> Result<&mut Node<F>, NameError> {
        let node = self.nodes.get_mut(number as usize).and_then(Option::as_mut);
        node.ok_or(NameError::NotFound)
    }

    fn directory_mut(&mut self, number: u32) -> Result<&mut BTreeMap<Box<[u8]>, u32>, NameError> {
        match &mut self.node_mut(number)?.kind {
            Kind::Directory(children) => Ok(children),
            _ => Err(NameError::NotDirectory),
        }
    }

    /// Puts a node into a directory, which changes with that.
    fn link(&mut self, directory: u32, name: &[u8], number: u32) -> Result<(), NameError> {
        self.directory_mut(directory)?.insert(name.into(), number);
        self.attributes_mut(directory)?.modified = Timestamp::now();
        Ok(())
    }

    fn take_name(&mut self, number: u32) -> Result<(), NameError> {
        if let Some((directory, name)) = self.node_mut(number)?.place.take() {
            self.directory_mut(directory)?.remove(&name);
            self.attributes_mut(directory)?.modified = Timestamp::now();
        }
        Ok(())
    }

    fn drop_if_unused(&mut self, number: u32) -> Gone<F> {
        let unused = |node: &mut Node<F>| node.place.is_none() && node.opens == 0;
        let slot = self.nodes.get_mut(number as usize)?;
        if number == ROOT {
            return None;
        }
        slot.take_if(unused).map(|node| (number, node.kind))
    }

    /// A directory must not become its own descendant.
    fn check_outside(&self, number: u32, directory: u32) -> Result<(), NameError> {
        let mut at = directory;
        loop {
            if at == number {
                return Err(NameError::Invalid);
            }
            match &self.node(at)?.place {
                Some((parent, _)) => at = *parent,
                None => return Ok(()),
            }
        }
    }

    fn check_replaceable(&self, number: u32, other: u32) -> Result<(), NameError> {
        match (self.kind(number)?, self.kind(other)?) {
            (Kind::Directory(_), Kind::Directory(held)) if held.is_empty() => Ok(()),
            (Kind::Directory(_), Kind::Directory(_)) => Err(NameError::NotEmpty),
            (Kind::Directory(_), _) => Err(NameError::NotDirectory),
            (_, Kind::Directory(_)) => Err(NameError::IsDirectory),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
