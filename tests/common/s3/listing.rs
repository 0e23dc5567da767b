//! ListObjectsV2 over the objects in memory: prefix, place to start, pages, common prefixes.

use s3s::dto::{CommonPrefix, ETag, ListObjectsV2Input, ListObjectsV2Output, Object as Listed, Timestamp};

use super::memory::{Memory, Object};

/// S3 gives no more at once, whatever is asked for.
const LARGEST_PAGE: usize = 1000;

/// One page as the request wants it.
pub(crate) fn page(memory: &Memory, input: ListObjectsV2Input) -> ListObjectsV2Output {
    let prefix = input.prefix.clone().unwrap_or_default();
    let start_after = input.start_after.clone().unwrap_or_default();
    let told = input.continuation_token.clone().unwrap_or_default();
    let limit = usize::try_from(input.max_keys.unwrap_or(i32::MAX))
        .unwrap_or(0)
        .min(LARGEST_PAGE);
    let start = [&prefix, &start_after, &told]
        .into_iter()
        .max()
        .cloned()
        .unwrap_or_default();
    let mut page = Page {
        limit,
        told,
        ..Page::default()
    };
    memory.visit(&start, |key, object| match key.strip_prefix(prefix.as_str()) {
        Some(_) if key <= start_after.as_str() => true,
        Some(rest) => page.take(key, rest, object, input.delimiter.as_deref()),
        None => false,
    });
    page.answer(input)
}

#[derive(Default)]
struct Page {
    limit: usize,
    /// Keys and common prefixes up to this one have been told, on an earlier page or on this one.
    told: String,
    entries: Vec<Listed>,
    groups: Vec<CommonPrefix>,
    /// The last key or common prefix of this page, if there are more.
    more_after: Option<String>,
}

impl Page {
    /// Takes one object; `false` once the page is full.
    fn take(&mut self, key: &str, rest: &str, object: &Object, delimiter: Option<&str>) -> bool {
        let cut = delimiter
            .filter(|text| !text.is_empty())
            .and_then(|text| Some(rest.find(text)? + text.len()));
        let name = cut.map_or(key, |cut| &key[..key.len() - rest.len() + cut]);
        if name <= self.told.as_str() {
            return true;
        }
        if self.entries.len() + self.groups.len() >= self.limit {
            // A page of no keys is never truncated.
            self.more_after = (self.limit > 0).then(|| self.told.clone());
            return false;
        }
        self.told = name.to_owned();
        match cut {
            Some(_) => self.groups.push(CommonPrefix {
                prefix: Some(name.to_owned()),
            }),
            None => self.entries.push(listed(key, object)),
        }
        true
    }

    fn answer(self, input: ListObjectsV2Input) -> ListObjectsV2Output {
        ListObjectsV2Output {
            name: Some(input.bucket),
            key_count: Some((self.entries.len() + self.groups.len()) as i32),
            max_keys: Some(self.limit as i32),
            is_truncated: Some(self.more_after.is_some()),
            next_continuation_token: self.more_after,
            contents: Some(self.entries),
            common_prefixes: Some(self.groups),
            prefix: input.prefix,
            delimiter: input.delimiter,
            start_after: input.start_after,
            continuation_token: input.continuation_token,
            ..ListObjectsV2Output::default()
        }
    }
}

fn listed(key: &str, object: &Object) -> Listed {
    Listed {
        key: Some(key.to_owned()),
        size: Some(object.bytes.len() as i64),
        e_tag: Some(ETag::Strong(object.etag.clone())),
        last_modified: Some(Timestamp::from(object.modified)),
        ..Listed::default()
    }
}
