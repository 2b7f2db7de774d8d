//! Traces, as a collector gets them. Only in a build with the feature `otlp`:
//! `make otlp-test`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use roomgate::dev::Options;
use serde_json::{Value, json};

use crate::client::rect;
use crate::session::small_world;
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

/// Takes OTLP over HTTP.
struct Collector {
    url: String,
    received: Arc<Mutex<Vec<Value>>>,
}

/// A span, with the node that made it.
#[derive(Debug, Clone)]
struct Span {
    node: String,
    trace: String,
    id: String,
    parent: String,
    name: String,
    times: [u64; 2],
    attributes: Value,
}

impl Collector {
    async fn start() -> Self {
        Self::at("127.0.0.1:0").await
    }

    async fn at(address: &str) -> Self {
        let received: Arc<Mutex<Vec<Value>>> = Arc::default();
        let take = async |State(received): State<Arc<Mutex<Vec<Value>>>>, body: String| {
            received.lock().unwrap().push(serde_json::from_str(&body).unwrap());
            "{}"
        };
        let router = Router::new().route("/v1/traces", post(take)).with_state(received.clone());
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let listener = listener.into_std().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        });
        Self { url, received }
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap().clone();
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let mut spans = Vec::new();
        for resource in received.iter().flat_map(|request| list(request, "resourceSpans")) {
            let node = attributes(&resource["resource"])["service.instance.id"].as_str().unwrap().to_owned();
            for span in list(&resource, "scopeSpans").iter().flat_map(|scope| list(scope, "spans")) {
                let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
                let time = |key: &str| text(key).parse().unwrap();
                spans.push(Span {
                    node: node.clone(),
                    trace: text("traceId"),
                    id: text("spanId"),
                    parent: text("parentSpanId"),
                    name: text("name"),
                    times: [time("startTimeUnixNano"), time("endTimeUnixNano")],
                    attributes: attributes(&span),
                });
            }
        }
        spans
    }

    /// The trace whose frame ended so, once it has so many spans: by name and node.
    async fn trace(&self, outcome: &str, spans: usize) -> Vec<Span> {
        let found = async {
            loop {
                let all = self.spans();
                let frame =
                    all.iter().find(|s| s.name == "frame" && s.attributes["roomgate.outcome"] == outcome);
                let mut trace: Vec<Span> = all
                    .iter()
                    .filter(|s| frame.is_some_and(|frame| frame.trace == s.trace))
                    .cloned()
                    .collect();
                if trace.len() >= spans {
                    trace.sort_by_key(|span| (span.name.clone(), span.node.clone()));
                    return trace;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("no such trace in {:#?}", self.spans()))
    }
}

fn attributes(of: &Value) -> Value {
    let list = of["attributes"].as_array().cloned().unwrap_or_default();
    let value =
        |value: &Value| value.as_object().and_then(|v| v.values().next().cloned()).unwrap_or_default();
    list.iter().map(|each| (each["key"].as_str().unwrap().to_owned(), value(&each["value"]))).collect()
}

fn shape(id: &str) -> Value {
    let mut shape = rect(id, 1);
    shape["text"] = "nobody's business".into();
    json!({"kind": "shape.add", "shape": shape})
}

#[tokio::test]
async fn a_submit_is_one_trace_from_its_frame_over_its_commit_to_its_delivery_on_every_node() {
    let collector = Collector::start().await;
    let world = World::start(|options| {
        Options { nodes: 2, shards: 1, replicas: 0, ..options }
            .set("traces.otlp_endpoint", &collector.url)
            .set("traces.sample_ratio", 1)
    })
    .await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "drawing").await;
    let (mut here, mut there) = (world.client(0, &alice).await, world.client(1, &bob).await);
    here.join(room).await;
    there.join(room).await;
    assert_eq!(here.submit(room, "one", &shape("a")).await["type"], "ack");
    there.catches_up(room, 1).await;

    let trace = collector.trace("accepted", 4).await;
    let [commit, delivered_here, delivered_there, frame] = trace.as_slice() else { panic!("{trace:#?}") };
    let parts = [commit, delivered_here, delivered_there, frame].map(|s| (s.name.as_str(), s.node.as_str()));
    assert_eq!(
        parts,
        [("commit", "node-1"), ("delivery", "node-1"), ("delivery", "node-2"), ("frame", "node-1")],
    );
    assert_eq!((frame.parent.as_str(), &commit.parent), ("", &frame.id));
    assert_eq!([&delivered_here.parent, &delivered_there.parent], [&commit.id; 2]);
    assert_eq!(commit.attributes["roomgate.outcome"], "committed");
    for delivery in [delivered_here, delivered_there] {
        assert_eq!(delivery.attributes["roomgate.seq"], "1");
        assert_eq!(delivery.attributes["roomgate.sessions"], "1");
        assert!(delivery.times[0] >= commit.times[1], "delivered before it was committed: {trace:#?}");
    }
    assert!(frame.times[0] <= commit.times[0] && commit.times[1] <= frame.times[1], "{trace:#?}");

    // Sent again, it has its answer, and nothing more is committed or delivered.
    assert_eq!(here.submit(room, "one", &shape("a")).await["duplicate"], true);
    let again = collector.trace("duplicate", 2).await;
    let names: Vec<&str> = again.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        (names, &again[0].attributes["roomgate.outcome"]),
        (vec!["commit", "frame"], &json!("nothing_to_write"))
    );
    // Nor over HTTP, which says so.
    let items = json!({"items": [{"op": "two", "kind": "shape.delete", "shape_id": "nowhere"}]});
    world.api_of(1, &alice).post(&format!("/v1/rooms/{room}/events"), &items).await.unwrap();
    let rejected = collector.trace("rejected", 2).await;
    assert_eq!(rejected[1].attributes["roomgate.transport"], "request", "{rejected:#?}");
    assert_eq!(collector.spans().len(), 8, "{:#?}", collector.spans());
    let all = format!("{:?}", collector.received.lock().unwrap());
    assert!(!all.contains("nobody's business") && !all.contains(&alice.user), "data is told");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_a_line_and_nothing_else() {
    // A port that nobody listens on.
    let address = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let world = small_world(|options| {
        options
            .set("traces.otlp_endpoint", format!("http://{address}"))
            .set("traces.sample_ratio", 1)
            .set("log.format", "json")
    })
    .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let said = |text: &str| {
        let log = std::fs::read_to_string(world.cluster().nodes()[0].service().log()).unwrap();
        log.matches(text).count()
    };
    let mut sent = 0;
    let mut draw = async |done: &dyn Fn() -> bool| {
        let drawing = async {
            while !done() {
                sent += 1;
                let op = sent.to_string();
                assert_eq!(client.submit(room, &op, &shape(&op)).await["type"], "ack");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, drawing).await.expect("it is told in the log");
    };
    draw(&|| said(FAILING) > 0).await;
    // Some more are sent in vain.
    let later = std::time::Instant::now() + Duration::from_secs(4);
    draw(&|| std::time::Instant::now() > later).await;
    assert_eq!(said(FAILING), 1);
    let collector = Collector::at(&address).await;
    draw(&|| said("traces are sent again") > 0).await;
    assert!(!collector.spans().is_empty());
    assert_eq!((said(FAILING), said("traces are sent again")), (1, 1));
}

const FAILING: &str = "traces can't be sent and are dropped";
