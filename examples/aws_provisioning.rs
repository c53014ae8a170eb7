//! A device that becomes a thing by a certificate that many share, and connects as that thing:
//! `cargo run --example aws_provisioning -- ENDPOINT TEMPLATE SERIAL CLAIM_CERTIFICATE CLAIM_KEY DIRECTORY [CA [PORT]]`
//!
//! The template asks for `SerialNumber`. The thing's certificate and key are in the directory afterwards.

use std::path::Path;

use paquebot::aws::{Connection, IdentityFiles, Provisioning};
use paquebot::{Fleet, Publish};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [
        host,
        template,
        serial,
        certificate,
        key,
        directory,
        local @ ..,
    ] = arguments.as_slice()
    else {
        anyhow::bail!("tell me endpoint, template, serial, claim certificate, its key, directory");
    };
    let mut connection = Connection::mutual_tls(host);
    if let [_, port] = local {
        connection = connection.port(port.parse()?);
    }
    let fleet = Fleet::builder().workers(1).start()?;
    let group = |name: &str| {
        let group = fleet.group(name).aws(connection.clone());
        match local {
            [ca, ..] => group.ca_file(ca),
            [] => group,
        }
    };

    let claims = group("claims")
        .client_certificate(certificate, key)
        .build()?;
    let claim = claims.device(format!("claim-{serial}"))?.start()?;
    claim.online().await?;
    let directory = Path::new(directory);
    let files = IdentityFiles::new(
        directory.join(format!("{serial}.pem")),
        directory.join(format!("{serial}.key")),
    );
    let provisioned = Provisioning::with_template(template)
        .parameter("SerialNumber", serial)
        .provision(&claim, files)
        .await?;
    claim.stop().await;
    println!("provisioned: {}", provisioned.thing_name);

    let things = provisioned.group(group("things")).build()?;
    let link = provisioned.link(&things)?.start()?;
    let topic = format!("dt/{}", provisioned.thing_name);
    let receipt = link
        .publish(Publish::new(topic.as_str(), "here I am")?)
        .await?;
    println!("published: {}", receipt.await.is_delivered());
    Ok(())
}
