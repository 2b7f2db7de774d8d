//! Whether a server allows what all nodes may open: one rule, for nodes and for
//! `check-config`.

use thiserror::Error;

use crate::config::{Config, Endpoint, Node, Pool};

/// Beside each pool of a node: its monitor, twice while it reconnects, and
/// whoever migrates or looks.
const BESIDE_A_POOL: u32 = 3;
/// A restart that spares users has every node there twice for a while.
const TWICE: u32 = 2;

/// What is asked of every server, by how many pools a node has there.
#[derive(Debug, Clone)]
pub struct Budget {
    nodes: u32,
    pool: u32,
    /// Of every pool: the directory's server may be a shard's too.
    pools: Vec<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    server: (String, u16),
    /// Through PgBouncer, whose own limits count: only its monitor is direct.
    is_pooled: bool,
}

/// What all nodes together may open on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    nodes: u32,
    pool: u32,
    /// Of one node, filled from here.
    pools: u32,
    /// Of one node, filled by a PgBouncer.
    pooled: u32,
}

/// What a server allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimit {
    pub max: u32,
    /// Not for ordinary roles.
    pub reserved: u32,
}

/// More than that.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", self.text())]
pub struct OverBudget {
    demand: Demand,
    limit: ConnectionLimit,
}

impl Budget {
    pub fn of(config: &Config) -> Self {
        let of_shards = config.shards.iter().flat_map(|shard| &shard.endpoints);
        Self::new(&config.node, &config.pool, config.directory.endpoints.iter().chain(of_shards))
    }

    /// `endpoints`: of all databases, one pool each.
    pub fn new<'a>(node: &Node, pool: &Pool, endpoints: impl Iterator<Item = &'a Endpoint>) -> Self {
        let place = |endpoint: &Endpoint| Place {
            server: (endpoint.host.clone(), endpoint.port),
            is_pooled: endpoint.pgbouncer.is_some(),
        };
        let pools = endpoints.map(place).collect();
        Self { nodes: node.expected_nodes, pool: pool.max_connections, pools }
    }

    pub fn demand(&self, endpoint: &Endpoint) -> Demand {
        let is_here = |place: &&Place| place.server.0 == endpoint.host && place.server.1 == endpoint.port;
        let (pooled, direct): (Vec<&Place>, Vec<&Place>) =
            self.pools.iter().filter(is_here).partition(|place| place.is_pooled);
        let count = |places: &[&Place]| u32::try_from(places.len()).unwrap_or(u32::MAX);
        Demand { nodes: self.nodes, pool: self.pool, pools: count(&direct), pooled: count(&pooled) }
    }
}

impl Demand {
    pub fn check(&self, limit: ConnectionLimit) -> Result<(), OverBudget> {
        if self.connections() <= limit.allowed() {
            return Ok(());
        }
        Err(OverBudget { demand: self.clone(), limit })
    }

    fn connections(&self) -> u32 {
        let of_a_node = self.pool.saturating_mul(self.pools).saturating_add(self.beside());
        of_a_node.saturating_mul(self.all_nodes())
    }

    /// The largest pool with which it fits.
    fn fitting_pool(&self, limit: ConnectionLimit) -> u32 {
        let of_a_node = limit.allowed() / self.all_nodes().max(1);
        of_a_node.saturating_sub(self.beside()).checked_div(self.pools).unwrap_or(0)
    }

    fn beside(&self) -> u32 {
        BESIDE_A_POOL.saturating_mul(self.pools.saturating_add(self.pooled))
    }

    fn all_nodes(&self) -> u32 {
        self.nodes.saturating_mul(TWICE)
    }
}

impl ConnectionLimit {
    pub fn allowed(self) -> u32 {
        self.max.saturating_sub(self.reserved)
    }
}

impl OverBudget {
    fn text(&self) -> String {
        let Self { demand: Demand { nodes, pool, pools, .. }, limit } = self;
        let beside = self.demand.beside();
        let needed = self.demand.connections();
        let raise = format!("raise its max_connections to {}", needed.saturating_add(limit.reserved));
        let advice = match self.demand.fitting_pool(*limit) {
            // What `pool.max_connections` may be at the least.
            fitting @ 2.. => format!("lower pool.max_connections to {fitting}, or {raise}"),
            _ => raise,
        };
        format!(
            "{nodes} node(s), twice during a restart, with {pools} pool(s) of {pool} here and {beside} \
             connections beside, may open {needed}; the server allows {} ({} less {} reserved): {advice}",
            limit.allowed(),
            limit.max,
            limit.reserved,
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ids::NodeName;

    fn endpoint(host: &str) -> Endpoint {
        let fields = json!({"name": "x", "host": host, "database": "d", "user": "u"});
        serde_json::from_value(fields).unwrap()
    }

    #[test]
    fn a_server_of_two_databases_is_asked_for_two_pools() {
        let node = Node { name: NodeName::new("n").unwrap(), zone: None, expected_nodes: 3 };
        let (shared, alone) = (endpoint("db-1"), endpoint("db-2"));
        let budget = Budget::new(&node, &Pool::default(), [&shared, &shared, &alone].into_iter());
        assert_eq!(budget.demand(&shared).connections(), 23 * 2 * 2 * 3);
        assert_eq!(budget.demand(&alone).connections(), 23 * 2 * 3);
    }

    #[test]
    fn what_does_not_fit_is_told_with_the_numbers_that_would() {
        let demand = Demand { nodes: 2, pool: 20, pools: 1, pooled: 0 };
        let limit = |max| ConnectionLimit { max, reserved: 3 };
        assert_eq!(demand.check(limit(95)), Ok(()));
        let text = demand.check(limit(94)).unwrap_err().to_string();
        for part in ["may open 92", "allows 91 (94 less 3", "pool.max_connections to 19", "to 95"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = demand.check(limit(20)).unwrap_err().to_string();
        assert!(!text.contains("lower"), "no pool would do: {text}");
    }
}
