//! What a tree that is being made builds on, said before it does: an empty object in its folder, `base.<id>.json`.
//!
//! It stays until the tree is gone: once there is a summary, that says it too, but may be lost.

use bytes::Bytes;

use super::TreeId;
use crate::archive::{Archive, Error};
use crate::store::{Key, Patience, PutMode};

const BASE: &str = "base.";
const JSON: &str = ".json";

/// The tree that an object of a folder claims, if it does.
pub(super) fn claimed(maker: &TreeId, key: &Key) -> Option<TreeId> {
    let file = key.as_str().strip_prefix(&maker.prefix())?;
    TreeId::parse(file.strip_prefix(BASE)?.strip_suffix(JSON)?)
}

impl Archive {
    /// Says that `maker`, which is being made, builds on `base`. False if a prune may be about to remove that: then it must not.
    /// Otherwise the base stays as long as there is anything of `maker`, if it is there *behind* this.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn claim_base(&self, maker: &TreeId, base: &TreeId, patience: Patience) -> Result<bool, Error> {
        let key = maker.key(&format!("{BASE}{base}{JSON}"));
        let said = Bytes::from_static(b"{}\n");
        self.store().put(&key, said, PutMode::Overwrite, patience).await?;
        let orders = self.orders(patience).await?;
        Ok(!orders.iter().any(|order| order.concerns(base)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_back() {
        let fresh = |name: &str| TreeId::fresh(&name.parse().unwrap());
        let (maker, base) = (fresh("tuesday"), fresh("mon.day.json"));
        let key = maker.key(&format!("base.{base}.json"));
        assert_eq!(claimed(&maker, &key), Some(base.clone()));
        for other in ["begun.json", "base.json", "base.x.json"] {
            assert_eq!(claimed(&maker, &maker.key(other)), None);
        }
        assert_eq!(claimed(&base, &key), None);
    }
}
