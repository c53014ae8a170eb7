//! What the machine has to allow for a run, looked at before it starts.

use std::fs;

use crate::cli::{CommandError, preflight};

/// What a run takes from the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) links: u32,
    pub(super) sockets_per_link: u64,
    /// Links come from ports of this machine, and all go to one address.
    pub(super) takes_ports: bool,
}

/// Fails when the run cannot work, with the command that helps; warns on standard error when it will work
/// badly.
pub(super) fn check(needs: Needs) -> Result<(), CommandError> {
    let links = u64::from(needs.links);
    let sockets = links.saturating_mul(needs.sockets_per_link);
    preflight::allow_sockets(needs.links as usize, sockets)?;
    // Other systems than Linux have no such file; the run then fails by itself if it has to.
    if needs.takes_ports
        && let Ok(range) = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        && let Some(problem) = ports_problem(links, &range)
    {
        eprintln!("paquebot: warning: {problem}");
    }
    Ok(())
}

/// From half of the ports on, finding a free one for the same destination takes the system many tries:
/// measured 8 times the cost of a connect.
fn ports_problem(links: u64, range: &str) -> Option<String> {
    let mut bounds = range.split_whitespace();
    let low: u64 = bounds.next()?.parse().ok()?;
    let high: u64 = bounds.next()?.parse().ok()?;
    let ports = (high + 1).checked_sub(low)?;
    if links <= ports / 2 {
        return None;
    }
    let consequence = if links > ports {
        "the rest cannot connect"
    } else {
        "connecting becomes slow past half of them"
    };
    let fix = if links <= 64_511 / 2 || low > 1_024 {
        "`sudo sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"` gives more"
    } else {
        "spread the links over several addresses of the server"
    };
    Some(format!(
        "{links} links to one address share {ports} local ports; {consequence}; {fix}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_warned_of_past_half_of_them() {
        let range = "32768\t60999\n";
        assert_eq!(ports_problem(14_116, range), None);
        assert!(ports_problem(14_117, range).unwrap().contains("slow"));
        assert!(
            ports_problem(28_233, range)
                .unwrap()
                .contains("cannot connect")
        );
        assert!(
            ports_problem(64_000, "1024 65535")
                .unwrap()
                .contains("several addresses")
        );
    }
}
