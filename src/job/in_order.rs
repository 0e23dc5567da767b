//! Of backups whose times contradict their order in the WAL, which are to be believed.

use std::collections::BTreeSet;

use jiff::Timestamp;

/// Places of those whose times agree with most others': of the longest row in which each ended no earlier than the one before.
/// Of rows as long the one that has the latest times early on, for what is chosen by those is never too new.
pub(in crate::job) fn in_order(ended: &[Timestamp]) -> BTreeSet<usize> {
    if ended.is_sorted() {
        return (0..ended.len()).collect();
    }
    // The longest row that begins with each, from the last on, and what follows there.
    let mut rows: Vec<(usize, Option<usize>)> = vec![(1, None); ended.len()];
    for at in (0..ended.len()).rev() {
        let behind = (at + 1..ended.len()).filter(|&next| ended[next] >= ended[at]);
        if let Some(next) = behind.max_by_key(|&next| (rows[next].0, ended[next])) {
            rows[at] = (rows[next].0 + 1, Some(next));
        }
    }
    let mut next = (0..rows.len()).max_by_key(|&at| (rows[at].0, ended[at]));
    let mut places = BTreeSet::new();
    while let Some(at) = next {
        places.insert(at);
        next = rows[at].1;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_row_is_believed() {
        let places = |seconds: &[i64]| {
            let ended = seconds
                .iter()
                .map(|second| Timestamp::from_second(*second).unwrap());
            in_order(&ended.collect::<Vec<_>>())
                .into_iter()
                .collect::<Vec<_>>()
        };
        assert!(places(&[]).is_empty());
        assert_eq!(places(&[1, 1, 2]), [0, 1, 2]);
        // One that was ahead, and one that had gone back.
        assert_eq!(places(&[1, 9, 2, 3]), [0, 2, 3]);
        assert_eq!(places(&[5, 6, 1, 7]), [0, 1, 3]);
        // One against one: what is taken for later.
        assert_eq!(places(&[5, 1]), [0]);
    }
}
