//! Where an archive was expected and none is: which are near by, for whoever mistyped the place.

/// The most that are named.
pub(super) const NAMED: usize = 5;

/// The most candidates that are looked into.
pub(super) const LOOKED_INTO: usize = 20;

/// Puts names in order of their likeness to `wanted`, and keeps the first [`LOOKED_INTO`].
pub(super) fn most_alike(mut names: Vec<String>, wanted: &str) -> Vec<String> {
    names.sort_by_key(|name| std::cmp::Reverse(likeness(name, wanted)));
    names.truncate(LOOKED_INTO);
    names
}

/// How many bytes two names have in common at their ends.
fn likeness(one: &str, other: &str) -> usize {
    let begin = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let end = one.bytes().rev().zip(other.bytes().rev());
    begin + end.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_finds_the_right_one_first() {
        let names = ["alpha", "main", "maintenance", "x"].map(String::from).to_vec();
        assert_eq!(most_alike(names, "mian")[0], "main");
    }
}
