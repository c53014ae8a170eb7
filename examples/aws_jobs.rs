//! A thing that does what AWS IoT's jobs tell it, one after the other.
//!
//! `cargo run --example aws_jobs -- ENDPOINT THING CERTIFICATE KEY [CA [PORT]]`

use paquebot::Fleet;
use paquebot::aws::{Connection, Job, JobDetails, JobOutcome, Jobs};

async fn work(job: Job) -> JobOutcome {
    let operation = job
        .document()
        .and_then(|document| document["operation"].as_str());
    println!(
        "{}: {}",
        job.id(),
        operation.unwrap_or("nothing that is known here")
    );
    match operation {
        Some("reboot") => {
            // Offline nothing is told, and the work goes on.
            let _ = job.progress([("step", "going down")]).await;
            JobOutcome::Succeeded([("step", "up again")].into())
        }
        Some(_) => JobOutcome::Rejected([("reason", "unknown operation")].into()),
        None => JobOutcome::Failed(JobDetails::new().with("reason", "no operation")),
    }
}

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
    let fleet = Fleet::builder().start()?;
    let mut group = fleet
        .group("things")
        .aws(connection)
        .client_certificate(certificate, key);
    if let [ca, ..] = local {
        group = group.ca_file(ca);
    }
    let (link, mut events) = group.build()?.device(thing.as_str())?.start_with_events()?;
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            eprintln!("{event}");
        }
    });
    link.online().await?;
    println!("{thing} waits for jobs");
    Jobs::of(&link.device())?.serve(work).await?;
    Ok(())
}
