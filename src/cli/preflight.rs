//! What has to hold before a fleet starts: enough open files.

use super::CommandError;
use super::check::grouped;

/// Files a process needs beside its devices' sockets: event loops, listeners, logs, the admin page.
const OTHER_FILES: u64 = 128;

/// Makes sure that the process may open `sockets` sockets; raises its soft limit where the hard one allows.
///
/// # Errors
/// The limit is too low and cannot be raised, with the command that raises it.
pub(crate) fn allow_sockets(devices: usize, sockets: u64) -> Result<(), CommandError> {
    let needed = sockets.saturating_add(OTHER_FILES);
    let allowed = rlimit::increase_nofile_limit(needed).map_err(|error| {
        CommandError::Failed(format!("cannot read the limit on open files: {error}"))
    })?;
    if allowed >= needed {
        return Ok(());
    }
    Err(CommandError::Usage(format!(
        "{} devices need {needed} open files and this process may open {allowed}: run `ulimit -Hn {needed} && \
         ulimit -n {needed}` as root before (LimitNOFILE={needed} in a systemd unit), or run fewer devices; \
         nothing was started",
        grouped(devices as u64)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_low_is_told_with_the_command_that_raises_it() {
        assert!(allow_sockets(1, 1).is_ok());
        let error = allow_sockets(1_000_000_000, 1 << 40).unwrap_err();
        assert!(matches!(error, CommandError::Usage(_)));
        let text = error.to_string();
        assert!(text.contains("ulimit -n 1099511627904"), "{text}");
    }
}
