//! Lays the packets and courses that the targets start from where bolero looks for a corpus.
//!
//!     cargo run --release --locked --example corpus

use std::path::Path;

// Under a fuzzer every program of the crate must hold its runtime.
use bolero as _;
use paquebot_fuzz::seeds;
use paquebot_protocols::mqtt::Version;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__");
    for (version, suffix) in [(Version::V311, "v4"), (Version::V5, "v5")] {
        let decode = root.join(format!("decode_{suffix}/corpus"));
        let round_trip = root.join(format!("round_trip_{suffix}/corpus"));
        std::fs::create_dir_all(&decode)?;
        let session = root.join(format!("session_{suffix}/corpus"));
        std::fs::create_dir_all(&round_trip)?;
        std::fs::create_dir_all(&session)?;
        for (place, course) in seeds::courses().take(200).enumerate() {
            std::fs::write(session.join(format!("seed-{place:03}")), course)?;
        }
        for (place, seed) in (0_u8..).zip(seeds::of(version)) {
            let name = format!("seed-{place:02}");
            std::fs::write(decode.join(&name), seed)?;
            // That target takes the number of a packet and the changes to it.
            std::fs::write(round_trip.join(&name), [place])?;
        }
    }
    println!("{}", root.display());
    Ok(())
}
