//! A thing that does what it is told: `cargo run --example aws_shadow -- ENDPOINT THING CERTIFICATE KEY [CA [PORT]]`

use paquebot::aws::Connection;
use paquebot::{Fleet, StateUpdate};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, thing, certificate, key, local @ ..] = arguments.as_slice() else {
        anyhow::bail!("tell me endpoint, thing, certificate, key, and a CA and a port of your own");
    };
    let mut connection = Connection::mutual_tls(host);
    if let [_, port] = local {
        connection = connection.port(port.parse()?);
    }
    let fleet = Fleet::builder().workers(1).start()?;
    let mut group = fleet.group("things").aws(connection);
    if let [ca, ..] = local {
        group = group.ca_file(ca);
    }
    let group = group.client_certificate(certificate, key).build()?;
    let (link, mut events) = group.device(thing.as_str())?.start_with_events()?;
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            eprintln!("{event}");
        }
    });
    let shadow = link.device().shadow()?;
    let mut deltas = shadow.deltas().await?;
    while let Some(delta) = deltas.next().await {
        println!("desired: {}", delta.state);
        if let Err(error) = shadow.update(StateUpdate::reported(delta.state)).await {
            eprintln!("not reported: {error}");
        }
    }
    Ok(())
}
