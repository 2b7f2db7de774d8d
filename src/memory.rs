//! The node's budget for the bytes of requests, answers and room states.
//!
//! A caller reserves bytes before it reads or allocates them, and keeps the
//! reservation for as long as the bytes exist. A reservation waits for a share of its
//! owner's budget and then of the node's, first come, first served; after [`PATIENCE`]
//! it is refused. So a user whose clients take their answers slowly waits for those
//! clients, and nobody else does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config;
use crate::ids::UserId;
use crate::metrics::gateway;
use crate::protocol::{Code, Refusal};

/// The longest wait for a share of the budgets.
const PATIENCE: Duration = Duration::from_secs(5);

/// Semaphores count up to 2^32 permits at once, so the budgets count in KiB.
const UNIT: usize = 1024;

/// Requests of so few bytes take nothing from the node's budget: its owner's bounds
/// them, and so does the number of connections.
pub const SMALL_BYTES: usize = 256 << 10;

/// Entries of owners without a reservation are removed when there are so many.
const OWNERS_KEPT: usize = 1024;

/// A cheap handle.
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Budgets>,
}

#[derive(Debug)]
struct Budgets {
    node: Arc<Semaphore>,
    node_units: u32,
    owner_units: u32,
    owners: Mutex<HashMap<Owner, Weak<Semaphore>>>,
}

/// The party whose share pays.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    User(UserId),
    /// A client without a token.
    Address(IpAddr),
    /// The node itself, or a program of the operators. Bounded by the node's budget alone.
    Node,
}

/// Bytes that are accounted for until this is dropped.
#[must_use = "dropping a reservation gives its bytes back"]
#[derive(Debug)]
pub struct Reservation {
    memory: Memory,
    owner: Owner,
    /// First the owner's share, then the node's. `None` without a limit.
    permits: [Option<OwnedSemaphorePermit>; 2],
    bytes: usize,
}

impl Memory {
    pub fn new(config: &config::Memory) -> Self {
        let node_units = units(config.node_bytes);
        let shared = Budgets {
            node: Arc::new(Semaphore::new(node_units as usize)),
            node_units,
            owner_units: units(config.user_bytes),
            owners: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for `bytes` of the owner's budget and of the node's. A reservation that is
    /// larger than its owner's budget takes all of that budget.
    pub async fn reserve(&self, owner: &Owner, bytes: usize) -> Result<Reservation, Refusal> {
        let permits = timeout(PATIENCE, self.permits(owner, bytes)).await;
        let permits = permits.map_err(|_| exhausted())?;
        gateway::memory_reserved(bytes);
        Ok(Reservation { memory: self.clone(), owner: owner.clone(), permits, bytes })
    }

    async fn permits(&self, owner: &Owner, bytes: usize) -> [Option<OwnedSemaphorePermit>; 2] {
        let shared = &self.shared;
        let own = match owner {
            Owner::Node => None,
            owner => Some(self.budget_of(owner)),
        };
        let mut permits = [None, None];
        let node = (bytes > SMALL_BYTES).then(|| shared.node.clone());
        let budgets = [(own, shared.owner_units), (node, shared.node_units)];
        for ((budget, all), permit) in budgets.into_iter().zip(&mut permits) {
            if let Some(budget) = budget.filter(|_| all > 0) {
                // Never closed, so there is no error.
                *permit = budget.acquire_many_owned(units(bytes).min(all)).await.ok();
            }
        }
        permits
    }

    fn budget_of(&self, owner: &Owner) -> Arc<Semaphore> {
        let mut owners = self.shared.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = owners.get(owner).and_then(Weak::upgrade) {
            return budget;
        }
        if owners.len() >= OWNERS_KEPT && owners.len() == owners.capacity() {
            owners.retain(|_, budget| budget.strong_count() > 0);
        }
        let budget = Arc::new(Semaphore::new(self.shared.owner_units as usize));
        owners.insert(owner.clone(), Arc::downgrade(&budget));
        budget
    }
}

impl Reservation {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            return;
        }
        for permit in self.permits.iter_mut().flatten() {
            let rest = permit.num_permits().saturating_sub(units(bytes) as usize);
            drop(permit.split(rest));
        }
        gateway::memory_freed(self.bytes - bytes);
        self.bytes = bytes;
    }

    /// Makes it `bytes` if it is smaller. It gives its own bytes back first: two callers
    /// that hold a part and wait for more would wait for each other.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > self.bytes {
            self.give_back();
            *self = self.memory.clone().reserve(&self.owner.clone(), bytes).await?;
        }
        Ok(())
    }

    fn give_back(&mut self) {
        gateway::memory_freed(std::mem::take(&mut self.bytes));
        self.permits = [None, None];
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Bytes that several sessions are sent: the first of them pays for all, for as long as
/// any of them is under way.
#[derive(Debug, Default)]
pub struct SharedBytes {
    paid: Mutex<Weak<Reservation>>,
}

impl SharedBytes {
    /// Whether they are being sent.
    pub fn are_paid(&self) -> bool {
        self.paid().strong_count() > 0
    }

    /// Returns once they are paid for. Keep the reservation until they are sent.
    pub async fn pay(
        &self,
        memory: &Memory,
        owner: &Owner,
        bytes: usize,
    ) -> Result<Arc<Reservation>, Refusal> {
        let paid = self.paid().upgrade();
        if let Some(paid) = paid {
            return Ok(paid);
        }
        let paid = Arc::new(memory.reserve(owner, bytes).await?);
        *self.paid() = Arc::downgrade(&paid);
        Ok(paid)
    }

    fn paid(&self) -> MutexGuard<'_, Weak<Reservation>> {
        self.paid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

fn exhausted() -> Refusal {
    gateway::rate_limited("memory");
    let message = "too many large requests are under way on this node; take their answers, and try again";
    Refusal::new(Code::Unavailable, message).retry_after_ms(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn memory(node_bytes: usize, user_bytes: usize) -> Memory {
        Memory::new(&config::Memory { node_bytes, user_bytes })
    }

    fn user(name: &str) -> Owner {
        Owner::User(UserId::new(name).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_waits_for_its_own_answers_and_nobody_else_does() {
        let memory = memory(8 * MIB, 4 * MIB);
        let (eve, ann) = (user("eve"), user("ann"));
        let mut held = memory.reserve(&eve, 3 * MIB).await.unwrap();
        let refused = memory.reserve(&eve, 2 * MIB).await.err().unwrap();
        assert_eq!((refused.code, refused.retry_after_ms), (Code::Unavailable, Some(1_000)));
        let anns = memory.reserve(&ann, 4 * MIB).await.unwrap();
        held.shrink_to(2 * MIB);
        let second = memory.reserve(&eve, 2 * MIB).await.unwrap();
        assert!(memory.reserve(&user("bob"), MIB).await.is_err(), "the node's budget is used up");
        drop((held, anns, second));
        assert!(memory.reserve(&Owner::Node, 8 * MIB).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_the_whole_budget_takes_all_of_it() {
        let memory = memory(8 * MIB, 4 * MIB);
        let eve = user("eve");
        let mut held = memory.reserve(&eve, 100 * MIB).await.unwrap();
        assert!(memory.reserve(&eve, 1).await.is_err());
        held.shrink_to(MIB);
        held.grow_to(4 * MIB).await.unwrap();
        assert!(memory.reserve(&user("ann"), 4 * MIB).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_grow_at_the_same_time_both_end() {
        let memory = memory(8 * MIB, 4 * MIB);
        let eve = user("eve");
        let grows = async || {
            let mut held = memory.reserve(&eve, 2 * MIB).await.unwrap();
            tokio::task::yield_now().await;
            held.grow_to(3 * MIB).await
        };
        assert!(matches!(futures_util::join!(grows(), grows()), (Ok(()), Ok(()))));
    }

    #[tokio::test(start_paused = true)]
    async fn many_sessions_pay_once_for_what_they_share() {
        let memory = memory(8 * MIB, 4 * MIB);
        let (eve, ann) = (user("eve"), user("ann"));
        let shared = SharedBytes::default();
        let first = shared.pay(&memory, &eve, 4 * MIB).await.unwrap();
        let second = shared.pay(&memory, &ann, 4 * MIB).await.unwrap();
        drop(first);
        assert!(shared.are_paid() && memory.reserve(&eve, MIB).await.is_err());
        drop(second);
        assert!(!shared.are_paid() && memory.reserve(&eve, MIB).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_request_never_waits_for_the_large_ones_of_others() {
        let memory = memory(2 * MIB, 4 * MIB);
        let _large = memory.reserve(&user("eve"), 2 * MIB).await.unwrap();
        assert!(memory.reserve(&user("ann"), SMALL_BYTES).await.is_ok());
        assert!(memory.reserve(&user("ann"), SMALL_BYTES + 1).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn zero_lifts_a_budget() {
        let memory = memory(0, 0);
        let eve = user("eve");
        let held: Vec<_> =
            futures_util::future::join_all((0..9).map(|_| memory.reserve(&eve, 1 << 30))).await;
        assert!(held.iter().all(Result::is_ok));
    }
}
