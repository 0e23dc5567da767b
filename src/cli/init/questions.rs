//! What is asked of a person at a terminal.

use std::io::{self, Write};

use super::Failed;

/// Bytes of an answer; who sends more is no person.
const MOST_BYTES: usize = 4096;

/// The archive. Asked again until there is an answer.
pub(super) fn archive() -> Result<String, Failed> {
    loop {
        let answer = ask("Archive (s3://bucket/prefix, or a directory of its own on this machine): ")?;
        if !answer.is_empty() {
            return Ok(answer);
        }
    }
}

/// The S3 server; `None`: AWS.
pub(super) fn endpoint() -> Result<Option<String>, Failed> {
    let answer = ask("URL of the S3 server (empty: AWS): ")?;
    Ok(Some(answer).filter(|answer| !answer.is_empty()))
}

/// Days that recovery shall reach back.
pub(super) fn keep_days() -> Result<u32, Failed> {
    loop {
        let answer = ask(&format!(
            "Days that recovery shall reach back [{}]: ",
            super::draft::DAYS
        ))?;
        match (answer.as_str(), answer.parse()) {
            ("", _) => return Ok(super::draft::DAYS),
            (_, Ok(days)) if days > 0 => return Ok(days),
            _ => {}
        }
    }
}

/// Shall the server archive now?
pub(super) fn apply() -> Result<bool, Failed> {
    let answer = ask("Let PostgreSQL archive into it now (ALTER SYSTEM)? [y/N]: ")?;
    Ok(matches!(answer.as_str(), "y" | "Y" | "yes"))
}

fn ask(question: &str) -> Result<String, Failed> {
    let failed = |error: io::Error| Failed::Deed(format!("cannot ask: {error}"));
    let mut out = io::stdout().lock();
    out.write_all(question.as_bytes())
        .and_then(|()| out.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    let read = io::Read::take(io::stdin(), MOST_BYTES as u64);
    io::BufRead::read_line(&mut io::BufReader::with_capacity(1, read), &mut answer).map_err(failed)?;
    match answer.ends_with('\n') {
        true => Ok(answer.trim().to_owned()),
        false => Err(Failed::Usage("the answers ended; nothing was done".into())),
    }
}
