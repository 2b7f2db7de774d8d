//! Connections of clients, in all and of each address. They stay below the descriptor
//! limit of the process: clients never take the descriptors that pools of databases,
//! Redis and files need.
//!
//! At accept only the peer is known, and the connections of a balancer belong to many
//! clients. Their addresses are counted once a request names them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Limits, network};
use crate::protocol::{Code, Refusal};

/// Cheap to clone.
#[derive(Clone)]
pub struct Connections {
    limits: Limits,
    /// As many as there are descriptors for.
    ceiling: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    all: usize,
    /// Of each address with a connection, and no others.
    of: HashMap<IpAddr, u32>,
}

/// One open connection. Given back on drop.
pub struct ConnectionPlace {
    connections: Connections,
    /// The address that it counts to.
    address: Mutex<Option<IpAddr>>,
}

impl Connections {
    pub fn new(limits: &Limits, ceiling: usize) -> Self {
        Self { limits: limits.clone(), ceiling, open: Arc::default() }
    }

    /// `None`: there are too many. Without an address the connection counts to all only.
    pub fn enter(&self, address: Option<IpAddr>) -> Option<Arc<ConnectionPlace>> {
        let address = address.map(network);
        let mut open = self.open();
        if open.all >= self.most() || !open.may_enter(address, self.most_of_an_address()) {
            return None;
        }
        open.all += 1;
        drop(open);
        let address = Mutex::new(address);
        Some(Arc::new(ConnectionPlace { connections: self.clone(), address }))
    }

    fn most(&self) -> usize {
        match self.limits.configured().connections {
            0 => self.ceiling,
            most => self.ceiling.min(most as usize),
        }
    }

    /// By default one address leaves half of the connections to the others.
    fn most_of_an_address(&self) -> usize {
        match self.limits.configured().connections_per_address {
            0 => self.most().div_ceil(2),
            most => most as usize,
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Counts one more of `address`, if there may be.
    fn may_enter(&mut self, address: Option<IpAddr>, most: usize) -> bool {
        let Some(address) = address else { return true };
        let count = self.of.entry(address).or_default();
        if *count as usize >= most {
            return false;
        }
        *count += 1;
        true
    }

    fn leave(&mut self, address: Option<IpAddr>) {
        self.all -= 1;
        if let Some(address) = address
            && let Entry::Occupied(mut entry) = self.of.entry(address)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

impl ConnectionPlace {
    /// `client` is behind a balancer, and its session keeps the connection from now on.
    /// A connection that counts to an address already stays with it.
    pub fn belongs_to(&self, client: IpAddr) -> Result<(), Refusal> {
        let mut address = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        if address.is_some() {
            return Ok(());
        }
        let client = network(client);
        let most = self.connections.most_of_an_address();
        if !self.connections.open().may_enter(Some(client), most) {
            let message = format!("at most {most} connections an address");
            return Err(Refusal::new(Code::RateLimited, message).retry_after_ms(5_000));
        }
        *address = Some(client);
        Ok(())
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let address = self.address.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.connections.open().leave(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn connections(all: u32, per_address: u32, ceiling: usize) -> Connections {
        let limits = config::Limits {
            connections: all,
            connections_per_address: per_address,
            ..config::Limits::default()
        };
        Connections::new(&Limits::new(&limits), ceiling)
    }

    fn address(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn connections_stay_below_the_configured_number_and_the_ceiling() {
        for (all, ceiling, most) in [(3, 10, 3), (10, 3, 3), (0, 3, 3)] {
            let connections = connections(all, 0, ceiling);
            let mut places: Vec<_> = (0..most).map(|n| connections.enter(address(n)).unwrap()).collect();
            assert!(connections.enter(address(9)).is_none());
            assert!(connections.enter(None).is_none(), "nor a balancer's");
            places.pop();
            assert!(connections.enter(None).is_some());
        }
    }

    #[test]
    fn connections_of_an_address_are_counted_to_it_until_they_end() {
        let connections = connections(0, 2, 100);
        let first = connections.enter(address(1)).unwrap();
        let _second = connections.enter(address(1)).unwrap();
        assert!(connections.enter(address(1)).is_none());
        assert!(connections.enter(address(2)).is_some());
        // Behind a balancer the address is known later.
        let balanced: Vec<_> = (0..3).map(|_| connections.enter(None).unwrap()).collect();
        assert!(balanced[0].belongs_to(address(1).unwrap()).is_err());
        drop(first);
        assert!(balanced[0].belongs_to(address(1).unwrap()).is_ok());
        assert!(balanced[0].belongs_to(address(2).unwrap()).is_ok(), "it stays with the first");
        assert!(balanced[1].belongs_to(address(1).unwrap()).is_err());
        drop(balanced);
        assert!(connections.enter(address(1)).is_some());
    }

    #[test]
    fn ended_connections_leave_nothing_behind() {
        let connections = connections(0, 2, 100);
        for n in 0..10 {
            drop(connections.enter(address(n)));
            let balanced = connections.enter(None).unwrap();
            balanced.belongs_to(address(n).unwrap()).unwrap();
        }
        assert!(connections.open().all == 0 && connections.open().of.is_empty());
    }
}
