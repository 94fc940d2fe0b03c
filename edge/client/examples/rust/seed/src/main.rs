use anyhow::{anyhow, Context, Result};
use tungstenite::connect;
use url::Url;

pub fn main() -> Result<()> {
    // Here are our connection details
    let url = std::env::args()
        .nth(1)
        .unwrap_or("ws://127.0.0.1:8080".to_string());
    let application = std::env::args()
        .nth(2)
        .unwrap_or("drogue-public-temperature".to_string());
    let url = format!("{}/{}", url, application);

    // And connect !
    let (mut socket, response) = connect(Url::parse(&url).unwrap())
        .context("Error connecting to the Websocket endpoint:")?;
    println!("Connected to websocket");
    println!("HTTP response code: {}", response.status());

    // Now we can simply poll the connection for new messages.
    loop {
        let msg = socket.read_message();
        match msg {
            Ok(m) => {
                // ignore protocol messages, only show text
                if m.is_text() {
                    println!("{}", m.into_text().expect("Invalid message"));
                }
            }
            Err(e) => break Err(anyhow!(e)),
        }
    }
}
