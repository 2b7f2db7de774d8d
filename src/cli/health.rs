//! `roomgate health`: asks a running node whether it is ready, and what is wrong.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::{ConfigArgs, Failure};

/// Ask a running node whether it can serve, and how everything is that it depends
/// on. Ends with 0 if it can serve, else with 1.
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
    /// Print JSON
    #[arg(long)]
    json: bool,
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
    let patience = Duration::from_secs(args.timeout);
    let get = async |path: &str| {
        let uri = format!("{base}{path}").parse();
        let uri = uri.map_err(|error| Failure { status: 2, message: format!("{base}: {error}") })?;
        let late = |_| Failure::new(format!("{base} does not answer within {} s", args.timeout));
        tokio::time::timeout(patience, ask(uri)).await.map_err(late)?
    };
    if args.live {
        let (ok, text) = get("/health/live").await?;
        println!("{text}");
        return if ok { Ok(()) } else { Err(Failure::new("not alive")) };
    }
    let (ready, _) = get("/health/ready").await?;
    let (_, detail) = get("/health/detailed").await?;
    if args.json {
        println!("{detail}");
    } else {
        let detail =
            serde_json::from_str(&detail).map_err(|error| Failure::new(format!("{base}: {error}")))?;
        print!("{}", lines(&detail, ready));
    }
    if ready { Ok(()) } else { Err(Failure::new("not ready")) }
}

/// A line for each thing the node depends on.
fn lines(detail: &Value, ready: bool) -> String {
    let mut text = String::new();
    let mut line = |name: String, what: &Value, is: &str| {
        let status = what["status"].as_str().unwrap_or("?");
        let why: Vec<&str> = what["why"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let row = format!("{name:<16}  {status:<8}  {is:<10}  {}", why.join("; "));
        text.push_str(row.trim_end());
        text.push('\n');
    };
    let node = format!("node {}", detail["node"].as_str().unwrap_or("?"));
    line(node, detail, if ready { "ready" } else { "not ready" });
    line("work".to_owned(), &detail["work"], "");
    line("bus".to_owned(), &detail["bus"], "");
    line("clock".to_owned(), &detail["clock"], "");
    for shard in
        std::iter::once(&detail["directory"]).chain(detail["shards"].as_array().into_iter().flatten())
    {
        let name = shard["name"].as_str().unwrap_or("?");
        let name = if name == "directory" { name.to_owned() } else { format!("shard {name}") };
        line(name, shard, "");
        if shard["traffic"]["status"] != "ok" {
            line("  traffic".to_owned(), &shard["traffic"], "");
        }
        for endpoint in shard["endpoints"].as_array().into_iter().flatten() {
            let name = format!("  {}", endpoint["name"].as_str().unwrap_or("?"));
            line(name, endpoint, endpoint["role"].as_str().unwrap_or("?"));
        }
    }
    text
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
