//! A thing that does what it is told: whatever its shadow desires, it takes over and reports.
//!
//! `cargo run --example aws_shadow -- mqtts://ENDPOINT:8883 THING CA.pem CERTIFICATE.pem KEY.pem`, or before a local
//! broker with a shadow service `-- mqtt://127.0.0.1:1883 THING`.

use std::error::Error;

use paquebot::dialect::Aws;
use paquebot::{Fleet, StateUpdate};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, thing, files @ ..] = &arguments[..] else {
        return Err("usage: aws_shadow URL THING [CA CERTIFICATE KEY]".into());
    };
    let fleet = Fleet::builder().workers(1).start()?;
    let mut group = fleet.group("echo").endpoint(url).dialect(Aws::default());
    if let [ca, certificate, key] = files {
        group = group.ca_file(ca).client_certificate(certificate, key);
    }
    let link = group.build()?.device(thing.clone())?.start()?;
    let shadow = link.device().shadow()?;
    let mut deltas = shadow.deltas().await?;
    while let Some(delta) = deltas.next().await {
        println!("desired: {}", delta.state);
        match shadow.update(StateUpdate::reported(delta.state)).await {
            Ok(answer) => println!("reported: version {}", answer.version.unwrap_or_default()),
            // What differs comes again after the next connect.
            Err(error) => eprintln!("not reported: {error}"),
        }
    }
    Ok(())
}
