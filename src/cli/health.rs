//! `roomgate health`: asks a running node whether it is ready.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::{ConfigArgs, Failure};

/// Ask a running node whether it can serve; for scripts and containers.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  roomgate health --url http://127.0.0.1:9090")]
pub struct HealthArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The operators' listener [default: listen.admin of the configuration]
    #[arg(long)]
    url: Option<String>,
    /// Only whether the process turns
    #[arg(long)]
    live: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    timeout: u64,
}

/// A health document is small; anything longer is something else.
const ANSWER_MAX: usize = 1 << 20;

pub(super) async fn run(args: HealthArgs) -> Result<(), Failure> {
    let base = match &args.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", args.config.load()?.config.listen.admin),
    };
    let path = if args.live { "live" } else { "ready" };
    let uri: Uri = format!("{base}/health/{path}")
        .parse()
        .map_err(|error| Failure { status: 2, message: format!("{base}: {error}") })?;
    let answer = tokio::time::timeout(Duration::from_secs(args.timeout), ask(uri));
    let (ok, text) = answer
        .await
        .map_err(|_| Failure::new(format!("{base} does not answer within {} s", args.timeout)))??;
    println!("{text}");
    if ok { Ok(()) } else { Err(Failure::new("not ready")) }
}

async fn ask(uri: Uri) -> Result<(bool, String), Failure> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let shown = uri.to_string();
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{shown}: {error}"));
    let response = client.get(uri).await.map_err(|error| failed(&error))?;
    let ok = response.status().is_success();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|e| failed(&e))?;
    Ok((ok, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}
