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
    client::connect_with_config,
    error::CapacityError,
    http::{StatusCode, Uri},
    protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
};

/// Above what an edge sends. The library's own limit for a frame is the same.
const MAX_MESSAGE: usize = 16 << 20;

fn main() -> Result<()> {
    let local = "ws://127.0.0.1:8080/drogue-public-temperature".to_string();
    let url = env::args().nth(1).unwrap_or(local);
    let mut cursor = None;
    let mut failures = 0;
    // The next event is too big, so it is read once without a limit and stepped over.
    let mut too_big = false;
    loop {
        let before = cursor.clone();
        let Err(error) = receive(&url, &mut cursor, too_big) else {
            too_big = false;
            continue;
        };
        if is_final(&error) {
            return Err(error);
        }
        // A group sets aside by itself what its members cannot take.
        too_big = is_too_big(&error) && cursor.is_some() && !url.contains("group_id=");
        failures = if cursor == before { failures + 1 } else { 0 };
        // A real client adds some chance, or all of them would come back in one moment.
        let delay = Duration::from_secs(1 << failures.min(5));
        eprintln!("{error:#}; again in {delay:?}");
        thread::sleep(delay);
    }
}

/// Prints events until the connection ends, and says why it did. `cursor` is the place of
/// the last one. With `step_over` it takes one of any size, does not print it, and ends.
fn receive(url: &str, cursor: &mut Option<String>, step_over: bool) -> Result<()> {
    let uri: Uri = begin_behind(url, cursor.as_deref()).parse()?;
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(value) = authorization()? {
        request = request.with_header("Authorization", value);
    }
    let limit = (!step_over).then_some(MAX_MESSAGE);
    let config = WebSocketConfig::default()
        .max_message_size(limit)
        .max_frame_size(limit);
    let (mut socket, _) = connect_with_config(request, Some(config), 3).context("connect")?;
    eprintln!("connected");
    loop {
        // Pings are answered in here.
        match socket.read().context("receive")? {
            Message::Text(text) => {
                let event: Value = serde_json::from_str(&text)?;
                if !step_over {
                    println!("{text}");
                }
                *cursor = event["cursor"].as_str().map(String::from);
                if step_over {
                    eprintln!("stepped over an event of {} bytes", text.len());
                    return Ok(());
                }
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

/// Says whether a message was larger than this client takes.
fn is_too_big(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<Error>(),
        Some(Error::Capacity(CapacityError::MessageTooLong { .. }))
    )
}

/// Says whether coming back is of no use: only broken connections and busy edges are worth it.
fn is_final(error: &anyhow::Error) -> bool {
    if is_too_big(error) {
        return false;
    }
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
