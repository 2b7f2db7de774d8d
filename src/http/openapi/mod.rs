//! `GET /openapi.json`: the public routes as OpenAPI 3.1, made from the handlers
//! themselves. A handler's attribute says what is its own; what follows from its
//! form (who may be refused, and how) is added here to all alike.

mod refusals;
pub(super) mod schemas;

use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, Object, OpenApi, PathsBuilder, RefOr, Type};

use super::answer;

const BEARER: &str = "bearer";

const ABOUT: &str = "Rooms with a durable, totally ordered log each. Times are integer milliseconds since 1970, \
                     UTC. A position is `epoch.seq` of an event. Lists answer `next_cursor`, null at their end; \
                     show it as `cursor` to go on. The WebSocket protocol of `/v1/ws` has messages of its own.";

/// The document, from what the router collected.
pub(super) fn text(collected: OpenApi) -> Bytes {
    let mut document = collected;
    document.info = InfoBuilder::new()
        .title("roomgate")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme(BEARER, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    document.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
    let paths = std::mem::replace(&mut document.paths, PathsBuilder::new().build());
    for (path, mut item) in paths.paths {
        for operation in operations(&mut item) {
            refusals::add(&path, operation);
            if reads(operation) {
                say_where_it_was_read(operation);
            }
        }
        document.paths.paths.insert(path, item);
    }
    serde_json::to_vec(&document).expect("the document is JSON").into()
}

pub(super) async fn serve(document: Bytes) -> Response {
    let text = String::from_utf8(document.into()).expect("JSON is text");
    answer::json(StatusCode::OK, text)
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// It takes how fresh its answer must be.
fn reads(operation: &Operation) -> bool {
    takes(operation, "min_seq")
}

fn takes(operation: &Operation, name: &str) -> bool {
    operation.parameters.iter().flatten().any(|parameter| parameter.name == name)
}

fn say_where_it_was_read(operation: &mut Operation) {
    let headers = [
        ("Roomgate-Position", "The room's `epoch.seq` that the answer contains; of reads of one room."),
        ("Roomgate-Served-By", "`primary`, `memory` or `replica/<name>`."),
        ("Roomgate-Fallback", "Why no replica answered, where one should have."),
    ];
    let Some(RefOr::T(success)) = operation.responses.responses.get_mut("200") else { return };
    for (name, about) in headers {
        let header = HeaderBuilder::new().schema(Object::with_type(Type::String)).description(Some(about));
        success.headers.insert(name.to_owned(), header.build());
    }
}
