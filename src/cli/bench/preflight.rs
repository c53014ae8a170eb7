//! What the machine has to allow for a run, looked at before it starts.

use std::fs;

use crate::cli::CommandError;

/// Descriptors for everything but the links: streams, event loops, timers, listeners.
const OTHER_DESCRIPTORS: u64 = 64;

/// What a run takes from the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) links: u64,
    pub(super) descriptors_per_link: u64,
    /// Links come from ports of this machine, and all go to one address.
    pub(super) takes_ports: bool,
}

/// Fails when the run cannot work, with the command that helps; warns on standard error when it will work
/// badly.
pub(super) fn check(needs: Needs) -> Result<(), CommandError> {
    // Other systems than Linux have neither file; the run then fails by itself if it has to.
    if let Ok(limits) = fs::read_to_string("/proc/self/limits")
        && let Some(problem) = descriptors_problem(needs, &limits)
    {
        return Err(CommandError::Failed(problem));
    }
    if needs.takes_ports
        && let Ok(range) = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        && let Some(problem) = ports_problem(needs.links, &range)
    {
        eprintln!("paquebot: warning: {problem}");
    }
    Ok(())
}

fn descriptors_problem(needs: Needs, limits: &str) -> Option<String> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let mut values = line.split_whitespace();
    let soft: u64 = values.next()?.parse().ok()?;
    let hard = values.next().unwrap_or("unlimited").parse().ok();
    let needed = needs.links * needs.descriptors_per_link + OTHER_DESCRIPTORS;
    if needed <= soft {
        return None;
    }
    let fix = if hard.is_none_or(|hard: u64| needed <= hard) {
        format!("run `ulimit -n {needed}` in this shell first")
    } else {
        format!("run `sudo prlimit --pid $$ --nofile={needed}:{needed}` in this shell first")
    };
    Some(format!(
        "{} links need {needed} open files and this process may have {soft}; {fix}",
        needs.links
    ))
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

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
                          Max processes             95000                95000                processes\n\
                          Max open files            1024                 20000                files\n";

    fn needs(links: u64) -> Needs {
        Needs {
            links,
            descriptors_per_link: 1,
            takes_ports: true,
        }
    }

    #[test]
    fn too_few_descriptors_are_named_with_the_command_that_gives_more() {
        assert_eq!(descriptors_problem(needs(960), LIMITS), None);
        let soft = descriptors_problem(needs(961), LIMITS).unwrap();
        assert!(soft.contains("`ulimit -n 1025`"), "{soft}");
        let hard = descriptors_problem(needs(20_000), LIMITS).unwrap();
        assert!(hard.contains("--nofile=20064:20064"), "{hard}");
        assert_eq!(
            descriptors_problem(
                needs(u64::from(u32::MAX)),
                "Max open files unlimited unlimited"
            ),
            None
        );
    }

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
