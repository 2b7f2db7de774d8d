//! A server that sends back what it hears, for the WebSocket cases of Autobahn:
//! `make autobahn`. Prints its address and serves until it is killed.

use std::convert::Infallible;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use roomgate::session::{ClientIo, upgrade_to_echo};
use roomgate::tasks::Tasks;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let tasks = Tasks::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let mine = tasks.clone();
        tasks.spawn("connection", serve(stream, mine));
    }
}

async fn serve(stream: TcpStream, tasks: Tasks) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        let response = match upgrade_to_echo(&mut request, &tasks) {
            Ok(response) => response.map(|()| String::new()),
            Err(refused) => {
                let mut response = Response::new(refused.refusal.message.into_owned());
                *response.status_mut() = refused.status;
                response
            }
        };
        async { Ok::<_, Infallible>(response) }
    });
    let Ok(client) = ClientIo::new(stream) else { return };
    let connection = http1::Builder::new().serve_connection(client, service);
    if let Err(error) = connection.with_upgrades().await {
        eprintln!("a connection ended: {error}");
    }
}
