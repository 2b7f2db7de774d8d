//! The way out: batches of spans, as JSON over HTTP/1, by the client that is here
//! anyway. Without TLS: a collector stands beside its nodes.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::ids::NodeName;
use crate::tasks::Tasks;

/// How long spans wait for others to be sent with.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// Spans that may wait; more are dropped.
const QUEUE: usize = 8192;
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// For the last ones of a node that ends.
pub(super) const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// What a collector may answer.
const ANSWER_BYTES: usize = 64 * 1024;

/// To be called in a runtime: it does the sending.
pub(super) fn provider(endpoint: &str, node: &NodeName, tasks: &Tasks) -> Result<SdkTracerProvider, String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpJson)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(SEND_LIMIT)
        .with_http_client(Post::new(tasks))
        .build()
        .map_err(|error| format!("traces.otlp_endpoint: {error}"))?;
    let batches =
        BatchConfigBuilder::default().with_scheduled_delay(SEND_EVERY).with_max_queue_size(QUEUE).build();
    // Not from the environment, as all of the configuration.
    let resource = Resource::builder_empty()
        .with_service_name("roomgate")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", node.as_str().to_owned()))
        .build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    // What isn't sampled never comes here.
    let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn);
    Ok(provider.with_resource(resource).with_span_processor(processor).build())
}

struct Post {
    client: Client<HttpConnector, Full<Bytes>>,
    /// The exporter's own thread has none.
    runtime: Handle,
    tasks: Tasks,
    failing: Arc<AtomicBool>,
}

impl Post {
    fn new(tasks: &Tasks) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, runtime: Handle::current(), tasks: tasks.clone(), failing: Arc::default() }
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Post")
    }
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Post {
    fn send_bytes<'a, 'async_trait>(&'a self, request: Request<Bytes>) -> Sending<'async_trait>
    where
        'a: 'async_trait,
        Self: 'async_trait,
    {
        let (tell, told) = oneshot::channel();
        let (client, failing) = (self.client.clone(), self.failing.clone());
        let _runtime = self.runtime.enter();
        self.tasks.spawn_for_handle("traces-export", async move {
            let answer = send(&client, request).await;
            note(&failing, answer.as_ref().map(Response::status));
            // Whoever asked may have run out of time.
            drop(tell.send(answer));
        });
        Box::pin(async move { told.await.map_err(HttpError::from)? })
    }
}

async fn send(
    client: &Client<HttpConnector, Full<Bytes>>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let exchange = async {
        let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
        Ok::<_, HttpError>(Response::from_parts(head, body))
    };
    tokio::time::timeout(SEND_LIMIT, exchange).await?
}

/// A line when it begins to fail, and one when it works again.
fn note(failing: &AtomicBool, answer: Result<hyper::StatusCode, &HttpError>) {
    let problem = match answer {
        Ok(status) if status.is_success() => None,
        Ok(status) => Some(status.to_string()),
        Err(error) => Some(error.to_string()),
    };
    match (problem, failing.load(Ordering::Relaxed)) {
        (Some(problem), false) => tracing::warn!(%problem, "traces can't be sent and are dropped"),
        (None, true) => tracing::info!("traces are sent again"),
        _ => return,
    }
    failing.fetch_xor(true, Ordering::Relaxed);
}
