//! The extents of a file in a short form: long ones, and single pages from elsewhere laid over them.
//!
//! ```text
//! "extents":[[0,8192,33546240],[1,0,1024000]],"over":[[17,512,"5 99 2x3+1"]]
//! ```
//! The extents are `[part, offset, bytes]` and follow each other. Over them lie pages of 8 KiB, part by part:
//! `[part, offset, runs]`. A run is `gap`, `gap x pages`, and `+ skipped`: how many pages of the file lie between the run
//! before and this one (of the first: between where the line begins and it), how many pages it has (1), and how many
//! pages of the part are passed over before it (0). So a page that has changed takes some three bytes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::MOST_READ_EXTENTS;
use crate::archive::tree::entry::Extent;
use crate::archive::tree::page_hashes::PAGE_BYTES;

/// Where the bytes of a range of a file are.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Overlay {
    extents: Vec<(u32, u64, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    over: Vec<(u32, u64, String)>,
}

/// Pages of one part that lie over the extents.
struct Layer {
    part: u32,
    offset: u64,
    runs: String,
    /// Where the last run ends: page of the file, offset in the part.
    end: (u64, u64),
}

/// The short form of extents that begin at `from` in the file.
pub(super) fn of(from: u64, extents: &[Extent]) -> Overlay {
    // What lies `shift` before its place in the file, until which of the extents.
    let shift = |at: u64, extent: &Extent| (extent.part, extent.offset.wrapping_sub(at));
    let mut last = HashMap::new();
    let mut at = from;
    for (number, extent) in extents.iter().enumerate() {
        last.insert(shift(at, extent), number);
        at += extent.bytes;
    }
    let mut short = Overlay::default();
    let mut layers: Vec<Layer> = Vec::new();
    let mut under = None;
    let mut at = from;
    for (number, extent) in extents.iter().enumerate() {
        let here = shift(at, extent);
        let goes_on = under == Some(here);
        let lies_over = under.is_some_and(|under| last[&under] > number)
            && [from, at, extent.bytes]
                .iter()
                .all(|bytes| bytes % PAGE_BYTES == 0);
        match short.extents.last_mut() {
            Some((_, _, bytes)) if goes_on || lies_over => *bytes += extent.bytes,
            _ => {
                short.extents.push((extent.part, extent.offset, extent.bytes));
                under = Some(here);
            }
        }
        if lies_over && !goes_on {
            lay(&mut layers, from / PAGE_BYTES, at / PAGE_BYTES, *extent);
        }
        at += extent.bytes;
    }
    let over = layers.into_iter();
    short.over = over.map(|layer| (layer.part, layer.offset, layer.runs)).collect();
    short
}

/// Adds whole pages that begin with `page` of the file; `first` is the page with which the line begins.
fn lay(layers: &mut Vec<Layer>, first: u64, page: u64, extent: Extent) {
    let skipped = |layer: &Layer| {
        let bytes = extent.offset.checked_sub(layer.end.1)?;
        bytes.is_multiple_of(PAGE_BYTES).then_some(bytes / PAGE_BYTES)
    };
    let follows = |layer: &&mut Layer| layer.part == extent.part && skipped(layer).is_some();
    let pages = extent.bytes / PAGE_BYTES;
    let (gap, skip, layer) = match layers.iter_mut().rev().find(follows) {
        Some(layer) => {
            layer.runs.push(' ');
            (page - layer.end.0, skipped(layer).unwrap_or_default(), layer)
        }
        None => {
            layers.push(Layer {
                part: extent.part,
                offset: extent.offset,
                runs: String::new(),
                end: (0, 0),
            });
            (page - first, 0, layers.last_mut().expect("pushed above"))
        }
    };
    layer.runs.push_str(&gap.to_string());
    if pages > 1 {
        layer.runs.push_str(&format!("x{pages}"));
    }
    if skip > 0 {
        layer.runs.push_str(&format!("+{skip}"));
    }
    layer.end = (page + pages, extent.offset + extent.bytes);
}

/// An extent, and where in the file it begins.
type Placed = (u64, Extent);

impl Overlay {
    /// The extents, which begin at `from` in the file.
    ///
    /// # Errors
    /// Why there are none, as text.
    pub(super) fn extents(self, from: u64) -> Result<Vec<Extent>, String> {
        let too_many = || format!("more than {MOST_READ_EXTENTS} extents in one line");
        if self.extents.len() > MOST_READ_EXTENTS {
            return Err(too_many());
        }
        let mut over = Vec::new();
        for (part, offset, runs) in &self.over {
            read_runs(from, *part, *offset, runs, &mut over)?;
            if over.len() > MOST_READ_EXTENTS {
                return Err(too_many());
            }
        }
        over.sort_by_key(|(at, _)| *at);
        let mut over = over.into_iter().peekable();
        let (mut at, mut found) = (from, Vec::with_capacity(self.extents.len() + over.len() * 2));
        for (part, offset, bytes) in self.extents {
            let end = at.checked_add(bytes).ok_or("no file is that long")?;
            offset.checked_add(bytes).ok_or("no part is that long")?;
            let start = at;
            let under = |range: std::ops::Range<u64>| Extent {
                part,
                offset: offset + (range.start - start),
                bytes: range.end - range.start,
            };
            while let Some((page, above)) = over.next_if(|(page, _)| *page < end) {
                if page < at || page + above.bytes > end {
                    return Err("pages lie over each other, or over two extents".into());
                }
                if page > at {
                    found.push(under(at..page));
                }
                at = page + above.bytes;
                found.push(above);
            }
            if at < end {
                found.push(under(at..end));
            }
            at = end;
        }
        match over.next() {
            Some(_) => Err("pages lie behind the extents".into()),
            None => Ok(found),
        }
    }
}

fn read_runs(
    from: u64,
    part: u32,
    mut offset: u64,
    runs: &str,
    found: &mut Vec<Placed>,
) -> Result<(), String> {
    let wrong = || format!("{runs:.80?} are no runs of pages");
    let number = |text: &str| text.parse::<u32>().map(u64::from).ok();
    let mut at = from;
    for run in runs.split(' ').take(MOST_READ_EXTENTS + 1) {
        let (run, skipped) = run.split_once('+').unwrap_or((run, "0"));
        let (gap, pages) = run.split_once('x').unwrap_or((run, "1"));
        let numbers = number(gap).zip(number(pages)).zip(number(skipped));
        let ((gap, pages), skipped) = numbers.filter(|((_, pages), _)| *pages > 0).ok_or_else(wrong)?;
        let bytes = pages * PAGE_BYTES;
        at = at.checked_add(gap * PAGE_BYTES).ok_or_else(wrong)?;
        offset = offset.checked_add(skipped * PAGE_BYTES).ok_or_else(wrong)?;
        found.push((at, Extent { part, offset, bytes }));
        at = at.checked_add(bytes).ok_or_else(wrong)?;
        offset = offset.checked_add(bytes).ok_or_else(wrong)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent(part: u32, offset: u64, bytes: u64) -> Extent {
        Extent { part, offset, bytes }
    }

    #[test]
    fn changed_pages_take_a_few_bytes_each() {
        let page = PAGE_BYTES;
        let extents = [
            extent(0, 8192, 5 * page),
            extent(7, 512, page),
            extent(0, 8192 + 6 * page, 2 * page),
            extent(7, 512 + page, 3 * page),
            extent(0, 8192 + 11 * page, page),
            extent(7, 512 + 5 * page, page),
            extent(0, 8192 + 13 * page, 100),
        ];
        let short = of(0, &extents);
        let json = serde_json::to_string(&short).unwrap();
        assert_eq!(
            json,
            r#"{"extents":[[0,8192,106596]],"over":[[7,512,"5 2x3 1+1"]]}"#
        );
        assert_eq!(short.extents(0).unwrap(), extents);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let read = |json: &str| serde_json::from_str::<Overlay>(json).unwrap().extents(0);
        let many = format!(
            r#"{{"extents":[[0,0,1073741824]],"over":[[0,0,"0{}"]]}}"#,
            " 0".repeat(100_000)
        );
        for wrong in [
            &many,
            r#"{"extents":[],"over":[[0,0,"0"]]}"#,
            r#"{"extents":[[0,0,8192]],"over":[[0,0,"1"]]}"#,
            r#"{"extents":[[0,0,8193]],"over":[[0,0,"1"]]}"#,
            r#"{"extents":[[0,0,81920]],"over":[[0,0,"0x3"],[1,0,"2"]]}"#,
            r#"{"extents":[[0,0,8192],[1,0,8192]],"over":[[2,0,"0x2"]]}"#,
            r#"{"extents":[[0,0,81920]],"over":[[0,0,""]]}"#,
            r#"{"extents":[[0,0,81920]],"over":[[0,0,"1x0"]]}"#,
            r#"{"extents":[[0,0,81920]],"over":[[0,0,"1  2"]]}"#,
            r#"{"extents":[[0,0,81920]],"over":[[0,0,"4294967296"]]}"#,
            r#"{"extents":[[0,0,81920]],"over":[[0,18446744073709551615,"1"]]}"#,
            r#"{"extents":[[0,1,18446744073709551615]]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    /// Extents as backups make them: of some parts, one page or several, in any order.
    fn row() -> impl Strategy<Value = Vec<(u32, u64, u64, bool)>> {
        prop::collection::vec((0..4_u32, 0..40_u64, 1..5_u64, any::<bool>()), 1..60)
    }

    proptest! {
        #[test]
        fn any_extents_are_read_back(row in row(), from in 0..3_u64, odd in 0..2_u64, tail in 1..8192_u64) {
            let from = from * PAGE_BYTES + odd;
            let mut at = from;
            let mut extents: Vec<Extent> = Vec::new();
            for (part, offset, pages, follows) in row {
                let offset = if follows { at + 512 } else { 512 + offset * PAGE_BYTES };
                extents.push(extent(part, offset, pages * PAGE_BYTES));
                at += pages * PAGE_BYTES;
            }
            extents.push(extent(9, 0, tail));
            let read = of(from, &extents).extents(from).unwrap();
            prop_assert_eq!(pages(&read), pages(&extents));
        }
    }

    /// Where each byte-range of a page is, whatever the cuts.
    fn pages(extents: &[Extent]) -> Vec<(u32, u64)> {
        let pages = extents.iter().flat_map(|extent| {
            let offsets = (0..extent.bytes).step_by(PAGE_BYTES as usize);
            offsets.map(|within| (extent.part, extent.offset + within))
        });
        pages.collect()
    }
}
