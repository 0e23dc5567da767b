//! Text from outside that a terminal shows as it is written, and does not obey.
//!
//! Names, labels and messages come from archives, manifests and servers. An escape sequence in one of them would move the
//! cursor, hide a line or set a terminal's title; a line feed would add a line that walfs never wrote. They are written
//! as `\u001b`: the form of JSON, so that it means the same in what `--json` prints.

use std::borrow::Cow;
use std::fmt::Write;

/// One line: whatever is no visible character is written as `\uXXXX`, line feeds and tabs too.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |letter| is_control(letter) || matches!(letter, '\n' | '\t'))
}

/// Lines of a whole message: as [`printable`], but line feeds and tabs stay.
pub(crate) fn printable_lines(text: &str) -> Cow<'_, str> {
    escape(text, is_control)
}

/// At most `bytes` of a text, cut between two characters, with a word of what is left out.
pub(crate) fn shortened(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(bytes)];
    Cow::Owned(format!("{kept}... ({} bytes more)", text.len() - kept.len()))
}

fn escape(text: &str, is_odd: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_odd) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_odd(letter) {
            write!(written, "\\u{:04x}", u32::from(letter)).expect("a string takes everything");
        } else {
            written.push(letter);
        }
    }
    Cow::Owned(written)
}

/// Control characters, and those that change the direction of the text around them.
fn is_control(letter: char) -> bool {
    let turns = matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    turns || letter.is_control() && !matches!(letter, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_spelled_out() {
        assert_eq!(printable("a\u{1b}[2Jb"), r"a\u001b[2Jb");
        assert_eq!(printable("one\ntwo\t\r\u{7f}"), r"one\u000atwo\u0009\u000d\u007f");
        assert_eq!(printable("\u{9b}31m\u{202e}x"), r"\u009b31m\u202ex");
        assert!(matches!(printable("Müller 日本"), Cow::Borrowed("Müller 日本")));
        assert_eq!(printable_lines("a\n\tb\u{1b}c"), "a\n\tb\\u001bc");
    }

    #[test]
    fn what_is_written_as_json_stays_json() {
        let text = serde_json::to_string("\u{1b}\u{9b}\n\u{202e}").unwrap();
        let back: String = serde_json::from_str(&printable_lines(&text)).unwrap();
        assert_eq!(back, "\u{1b}\u{9b}\n\u{202e}");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("aüb", 2), "a... (3 bytes more)");
    }
}
