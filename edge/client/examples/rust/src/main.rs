//! Prints the events of an application, and comes back by itself where it was.
//!
//! It signs in with the API key in CANOPY_USER and CANOPY_KEY, or with the OpenID token in
//! the file that CANOPY_TOKEN_FILE names, which is read again before each connection.

use std::{env, fs, thread, time::Duration};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use tungstenite::{
    ClientRequestBuilder, Error, Message,
    http::{StatusCode, Uri},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

fn main() -> Result<()> {
    let local = "ws://127.0.0.1:8080/drogue-public-temperature".to_string();
    let url = env::args().nth(1).unwrap_or(local);
    let mut cursor = None;
    let mut failures = 0;
    loop {
        let before = cursor.clone();
        let error = receive(&url, &mut cursor).unwrap_err();
        if is_final(&error) {
            return Err(error);
        }
        failures = if cursor == before { failures + 1 } else { 0 };
        // A real client adds some chance, or all of them would come back in one moment.
        let delay = Duration::from_secs(1 << failures.min(5));
        eprintln!("{error:#}; again in {delay:?}");
        thread::sleep(delay);
    }
}

/// Prints events until the connection ends, and says why it did. `cursor` is the place of
/// the last one.
fn receive(url: &str, cursor: &mut Option<String>) -> Result<()> {
    let uri: Uri = begin_behind(url, cursor.as_deref()).parse()?;
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(value) = authorization()? {
        request = request.with_header("Authorization", value);
    }
    let (mut socket, _) = tungstenite::connect(request).context("connect")?;
    eprintln!("connected");
    loop {
        // Pings are answered in here.
        match socket.read().context("receive")? {
            Message::Text(text) => {
                println!("{text}");
                let event: Value = serde_json::from_str(&text)?;
                *cursor = event["cursor"].as_str().map(String::from);
            }
            Message::Close(Some(CloseFrame { code, reason })) => {
                eprintln!("closed: {code} {reason}");
                if let CloseCode::Protocol | CloseCode::Invalid | CloseCode::Size = code {
                    bail!("the edge does not understand this client");
                }
            }
            _ => {}
        }
    }
}

/// The URL that goes on behind an event. A group keeps its place by itself.
fn begin_behind(url: &str, cursor: Option<&str>) -> String {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    match cursor {
        Some(cursor) if !query.contains("group_id=") => {
            let kept = query
                .split('&')
                .filter(|p| !p.is_empty() && !p.starts_with("since="));
            let since = format!("since={cursor}");
            let parameters: Vec<&str> = kept.chain([since.as_str()]).collect();
            format!("{path}?{}", parameters.join("&"))
        }
        _ => url.to_string(),
    }
}

/// The header that signs in; none for a public application.
fn authorization() -> Result<Option<String>> {
    if let Ok(file) = env::var("CANOPY_TOKEN_FILE") {
        let token = fs::read_to_string(file).context("read token")?;
        return Ok(Some(format!("Bearer {}", token.trim())));
    }
    Ok(match (env::var("CANOPY_USER"), env::var("CANOPY_KEY")) {
        (Ok(user), Ok(key)) => Some(format!(
            "Basic {}",
            BASE64_STANDARD.encode(format!("{user}:{key}"))
        )),
        _ => None,
    })
}

/// Says whether coming back is of no use: only broken connections and busy edges are worth it.
fn is_final(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<Error>() {
        Some(Error::Http(answer)) => {
            let status = answer.status();
            status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
        }
        Some(
            Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_),
        ) => false,
        _ => true,
    }
}
