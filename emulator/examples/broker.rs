//! A broker on this machine that prints what is published:
//! `cargo run -p paquebot-emulator --example broker -- 1883`, port 0 or none for a free one.

use paquebot_emulator::Broker;
use paquebot_emulator::mqtt::TopicFilter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 0,
    };
    let broker = Broker::builder()
        .tcp(([127, 0, 0, 1], port))
        .start()
        .await?;
    if let Some(address) = broker.tcp_address() {
        println!("listening on {address}; end with Ctrl-C");
    }
    let mut watch = broker.watch(TopicFilter::new("#")?);
    while let Some(message) = watch.recv().await {
        println!(
            "{} {}: {} bytes at QoS {}",
            message.client_id.as_deref().unwrap_or("-"),
            message.topic.as_str(),
            message.payload.len(),
            message.qos as u8
        );
    }
    Ok(())
}
