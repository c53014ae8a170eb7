//! `--ws-header`: headers of the request that opens a WebSocket.

use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use super::usage;
use crate::cli::CommandError;

/// The headers of all flags, in order. No error says what stands behind the colon.
///
/// # Errors
/// There is no WebSocket, a file cannot be read, or something is no header.
pub(super) fn read(
    flags: &[SecretString],
    is_websocket: bool,
) -> Result<Vec<(String, SecretString)>, CommandError> {
    if !flags.is_empty() && !is_websocket {
        return Err(usage("--ws-header is for WebSocket: --ws, or -L ws://…"));
    }
    let mut headers = Vec::new();
    for flag in flags {
        let Some(file) = flag.expose_secret().strip_prefix('@') else {
            headers.push(header(flag.expose_secret()).ok_or_else(|| {
                usage("--ws-header: write 'Name: value', or @FILE for a file of such lines")
            })?);
            continue;
        };
        let text = std::fs::read_to_string(Path::new(file))
            .map(SecretString::from)
            .map_err(|error| usage(format!("--ws-header: cannot read {file}: {error}")))?;
        let lines = text.expose_secret().lines().enumerate();
        for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let header = header(line).ok_or_else(|| {
                usage(format!(
                    "--ws-header: line {} of {file} is no 'Name: value'",
                    at + 1
                ))
            })?;
            headers.push(header);
        }
    }
    Ok(headers)
}

fn header(text: &str) -> Option<(String, SecretString)> {
    let (name, value) = text.split_once(':')?;
    let name = name.trim();
    (!name.is_empty()).then(|| (name.to_owned(), SecretString::from(value.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(flags: &[&str]) -> Vec<String> {
        let flags: Vec<_> = flags.iter().map(|flag| SecretString::from(*flag)).collect();
        let headers = read(&flags, true).unwrap().into_iter();
        headers
            .map(|(name, value)| format!("{name}={}", value.expose_secret()))
            .collect()
    }

    #[test]
    fn headers_come_from_flags_and_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        std::fs::write(&file, "X-One:  1\n\nAuthorization: Bearer a:b\r\n").unwrap();
        let file = format!("@{}", file.display());
        assert_eq!(
            shown(&["X-Zero: 0", &file, "Empty:"]),
            ["X-Zero=0", "X-One=1", "Authorization=Bearer a:b", "Empty="]
        );
    }

    #[test]
    fn what_is_no_header_is_refused_without_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        std::fs::write(&file, "A: b\ncanary\n").unwrap();
        let file = format!("@{}", file.display());
        for flag in ["canary", ": canary", &file] {
            let error = read(&[SecretString::from(flag)], true).unwrap_err();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        assert!(read(&["@/does/not/exist".into()], true).is_err());
        assert!(read(&["A: b".into()], false).is_err());
        assert!(read(&[], false).unwrap().is_empty());
    }
}
