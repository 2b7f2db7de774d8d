//! The table of addresses that `roomgate dev` prints.

use std::fmt::Write;
use std::path::Path;

use super::report::{Prometheus, Report, Role};

/// For people. `folder` is where the data lies.
pub fn table(report: &Report, folder: &Path) -> String {
    let mut rows: Vec<[String; 4]> = Vec::new();
    let mut row = |name: &str, address: &str, pid: i32, note: &str| {
        rows.push([name.to_owned(), address.to_owned(), format!("pid {pid}"), note.to_owned()]);
    };
    row("haproxy", &report.lb, report.haproxy.pid, &report.haproxy.stats_url);
    for node in &report.nodes {
        row(&node.name, &node.url, node.pid, &format!("{}/metrics", node.admin_url));
    }
    row("redis", &report.redis.url, report.redis.pid, "");
    for endpoint in report.shards.iter().flat_map(|shard| &shard.endpoints) {
        let role = if endpoint.role == Role::Primary { "primary" } else { "replica" };
        row(&endpoint.name, &endpoint.admin_dsn, endpoint.pid, role);
    }
    let graphs = |it: &Prometheus| format!("  prometheus  {0}\n  graphs      {0}/user/live/\n", it.url);
    let prometheus = report.prometheus.as_ref().map(graphs);
    let demo = &report.demo;
    format!(
        "\n{}{}\n  data        {}, addresses also in dev.json there\n  whiteboard  {}/?room={}\n              \
         anybody may draw; its owner signs in as {} with {}\n",
        aligned(&rows),
        prometheus.unwrap_or_default(),
        folder.display(),
        report.lb,
        demo.slug,
        demo.email,
        demo.password,
    )
}

fn aligned(rows: &[[String; 4]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (names, addresses, pids) = (width(0).max(10), width(1), width(2));
    let mut text = String::new();
    for [name, address, pid, note] in rows {
        let line = format!("  {name:names$}  {address:addresses$}  {pid:pids$}  {note}");
        writeln!(text, "{}", line.trim_end()).expect("a String takes everything");
    }
    text
}
