//! A network namespace around a server: a network of its own, that a test can break without telling either end.
//!
//! A pair of virtual Ethernet devices joins it to this machine. Both end with the server. A way is broken by a false
//! hardware address for the other end: packets leave and nobody takes them, as on a broken network, and no error
//! comes back.

use std::hash::{BuildHasher as _, RandomState};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:01";

/// Joined to the namespace of a server's process.
#[derive(Debug)]
pub(crate) struct Network {
    /// A process in the namespace.
    process: u32,
    outer: Side,
    inner: Side,
}

#[derive(Debug)]
struct Side {
    device: String,
    address: Ipv4Addr,
}

/// A way through the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// The program that starts another one in a namespace of its own, if this process may do so; otherwise the reason is
/// told on stderr and the test is to return.
pub(crate) fn namespaces() -> Option<()> {
    let may = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    };
    let made = may("unshare", &["--net", "ip", "link", "set", "lo", "up"]);
    if !made {
        eprintln!("skipped: network namespaces need root, unshare and ip");
    }
    made.then_some(())
}

impl Network {
    /// Joins this machine to the namespace that `process` lives in.
    ///
    /// # Panics
    ///
    /// When the devices cannot be made.
    pub(crate) fn join(process: u32) -> Self {
        let random = RandomState::new().hash_one(process);
        let [a, b, c, ..] = random.to_le_bytes();
        // The block for tests of network devices, in networks of four addresses.
        let address = |host: u8| Ipv4Addr::new(198, 18 + (a & 1), b, (c & 0xFC) | host);
        let side = |name: char, host| Side {
            device: format!("pq{:08x}{name}", random >> 32),
            address: address(host),
        };
        let network = Self {
            process,
            outer: side('o', 1),
            inner: side('i', 2),
        };
        let (outer, inner) = (&network.outer, &network.inner);
        let pid = process.to_string();
        let device = |side: &Side| side.device.clone();
        run(
            "ip",
            &[
                "link",
                "add",
                &device(outer),
                "type",
                "veth",
                "peer",
                "name",
                &device(inner),
                "netns",
                &pid,
            ],
        );
        for (side, is_inner) in [(outer, false), (inner, true)] {
            let cidr = format!("{}/30", side.address);
            network.ip(is_inner, &["addr", "add", &cidr, "dev", &side.device]);
            network.ip(is_inner, &["link", "set", &side.device, "up"]);
        }
        network.ip(true, &["link", "set", "lo", "up"]);
        network
    }

    /// The server's address as seen from this machine.
    pub(crate) const fn server(&self) -> Ipv4Addr {
        self.inner.address
    }

    /// Loses everything on this way from now on.
    pub(crate) fn sever(&self, way: Way) {
        let (from, to, is_inner) = self.ends(way);
        self.ip(
            is_inner,
            &[
                "neigh",
                "replace",
                &to.address.to_string(),
                "lladdr",
                NOBODY,
                "dev",
                &from.device,
                "nud",
                "permanent",
            ],
        );
    }

    /// Lets everything through on this way again.
    pub(crate) fn mend(&self, way: Way) {
        let (from, to, is_inner) = self.ends(way);
        self.ip(
            is_inner,
            &["neigh", "del", &to.address.to_string(), "dev", &from.device],
        );
    }

    const fn ends(&self, way: Way) -> (&Side, &Side, bool) {
        match way {
            Way::ToServer => (&self.outer, &self.inner, false),
            Way::ToClient => (&self.inner, &self.outer, true),
        }
    }

    fn ip(&self, is_inner: bool, arguments: &[&str]) {
        if is_inner {
            let pid = self.process.to_string();
            run("nsenter", &[&["-t", &pid, "-n", "ip"], arguments].concat());
        } else {
            run("ip", arguments);
        }
    }
}

/// The arguments with which `unshare` starts a program in a network of its own.
pub(crate) fn apart(program: &Path) -> Vec<std::ffi::OsString> {
    vec!["--net".into(), program.into()]
}

fn run(program: &str, arguments: &[&str]) {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {}
        outcome => panic!("{program} {arguments:?}: {outcome:?}"),
    }
}
