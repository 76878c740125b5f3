//! A pool and its prefix cache: who finds what, who is evicted, and a naive model of all of it.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{
    Tenant,
    kv_blocks::KvBlocks,
    prefix::{Owner, Prefix},
    prefix_cache::Parent,
};
use crate::backend::{AdapterIndex, ModelLimits, NULL_BLOCK};

const BLOCK: usize = 2;
const BLOCKS: usize = 12;

fn pool(num_blocks: usize) -> KvBlocks {
    KvBlocks::new(ModelLimits {
        vocab_size: 10,
        context_length: 100,
        block_size: BLOCK,
        num_blocks,
        window: None,
    })
}

fn plain(tokens: &[u32]) -> Prefix<&[u32]> {
    Prefix {
        adapter: None,
        tokens,
    }
}

/// What a scheduler does with the blocks of one sequence.
struct Holder {
    owner: Owner,
    adapter: Option<AdapterIndex>,
    tokens: Vec<u32>,
    blocks: Vec<u32>,
    /// Blocks found in the cache when it started.
    matched: usize,
    /// Blocks that it has let go of.
    gone: usize,
}

impl Holder {
    fn held(&self) -> &[u32] {
        &self.blocks[self.gone..]
    }

    fn let_go(&mut self, kv: &mut KvBlocks, count: usize) {
        kv.let_go(&mut self.blocks[self.gone..count]);
        self.gone = count;
    }
}

fn tenant(name: &str) -> Owner {
    Owner::Tenant(Tenant::named(name).unwrap())
}

fn start(kv: &mut KvBlocks, tokens: Vec<u32>) -> Option<Holder> {
    start_with(kv, tenant("a"), None, tokens)
}

fn start_with(
    kv: &mut KvBlocks,
    owner: Owner,
    adapter: Option<AdapterIndex>,
    tokens: Vec<u32>,
) -> Option<Holder> {
    let mut blocks = Vec::new();
    let prefix = Prefix {
        adapter,
        tokens: tokens.as_slice(),
    };
    kv.match_prefix(&owner, prefix, tokens.len() / BLOCK, &mut blocks);
    let matched = blocks.len();
    while blocks.len() < tokens.len() / BLOCK {
        match kv.allocate() {
            Some(block) => blocks.push(block),
            None => {
                kv.release_all(&mut blocks);
                return None;
            }
        }
    }
    Some(Holder {
        owner,
        adapter,
        tokens,
        blocks,
        matched,
        gone: 0,
    })
}

fn publish(kv: &mut KvBlocks, holder: &mut Holder) {
    for i in holder.matched..holder.blocks.len() {
        let root = Parent::Root(holder.adapter);
        let parent = i.checked_sub(1).map_or(root, |p| Parent::Block(holder.blocks[p]));
        let chunk = &holder.tokens[i * BLOCK..(i + 1) * BLOCK];
        holder.blocks[i] = kv.publish(parent, &holder.owner, chunk, holder.blocks[i]);
    }
}

#[test]
fn a_published_prefix_is_found_and_a_twin_gives_its_blocks_back() {
    let mut kv = pool(BLOCKS);
    let mut first = start(&mut kv, vec![1, 2, 3, 4]).unwrap();
    let mut twin = start(&mut kv, vec![1, 2, 3, 4]).unwrap();
    assert_eq!(kv.held(), 4);
    publish(&mut kv, &mut first);
    publish(&mut kv, &mut twin);
    assert_eq!(first.blocks, twin.blocks);
    assert_eq!(kv.held(), 2);
    kv.release_all(&mut first.blocks);
    kv.release_all(&mut twin.blocks);
    assert_eq!((kv.held(), kv.available()), (0, BLOCKS));
    assert_eq!(start(&mut kv, vec![1, 2, 3, 4, 5, 6]).unwrap().matched, 2);
    assert_eq!(
        start(&mut kv, vec![3, 4]).unwrap().matched,
        0,
        "the same block after another prefix"
    );
}

#[test]
fn a_tenant_finds_its_own_blocks_and_everyones_and_no_other() {
    let mut kv = pool(BLOCKS);
    let mut policy = start_with(&mut kv, Owner::Everyone, None, vec![1, 2]).unwrap();
    publish(&mut kv, &mut policy);
    kv.pin(&policy.blocks);
    for name in ["a", "b"] {
        let mut first = start_with(&mut kv, tenant(name), None, vec![1, 2, 3, 4]).unwrap();
        assert_eq!(first.matched, 1, "{name} finds the policy and nothing else");
        publish(&mut kv, &mut first);
        kv.release_all(&mut first.blocks);
        let mut again = start_with(&mut kv, tenant(name), None, vec![1, 2, 3, 4]).unwrap();
        assert_eq!(again.matched, 2, "{name} finds its own");
        kv.release_all(&mut again.blocks);
    }
    assert_eq!(
        start_with(&mut kv, Owner::Everyone, None, vec![1, 2, 3, 4])
            .unwrap()
            .matched,
        1
    );
}

#[test]
fn adapters_never_share_blocks() {
    let mut kv = pool(BLOCKS);
    let adapters = [None, Some(AdapterIndex(0)), Some(AdapterIndex(1))];
    let mut holders: Vec<Holder> = Vec::new();
    for adapter in adapters {
        let mut holder = start_with(&mut kv, tenant("a"), adapter, vec![1, 2, 3, 4]).unwrap();
        assert_eq!(holder.matched, 0, "nothing of another adapter is found");
        publish(&mut kv, &mut holder);
        assert!(holders.iter().all(|other| other.blocks != holder.blocks));
        holders.push(holder);
    }
    assert_eq!(kv.held(), 6);
    for (adapter, holder) in adapters.into_iter().zip(&holders) {
        let again = start_with(&mut kv, tenant("a"), adapter, vec![1, 2, 3, 4]).unwrap();
        assert_eq!((again.matched, &again.blocks), (2, &holder.blocks));
    }
}

#[test]
fn the_least_recently_used_leaf_goes_first_and_pinned_ones_stay() {
    let mut kv = pool(4);
    for tokens in [vec![1, 1, 2, 2], vec![3, 3], vec![4, 4]] {
        let owner = if tokens[0] == 3 {
            Owner::Everyone
        } else {
            tenant("a")
        };
        let mut holder = start_with(&mut kv, owner, None, tokens).unwrap();
        publish(&mut kv, &mut holder);
        if holder.tokens[0] == 3 {
            kv.pin(&holder.blocks);
        }
        kv.release_all(&mut holder.blocks);
    }
    assert_eq!((kv.available(), kv.pinned()), (3, 1));
    let mut blocks = Vec::new();
    kv.match_prefix(&tenant("a"), plain(&[1, 1, 2, 2]), 2, &mut blocks);
    kv.release_all(&mut blocks);
    // [4, 4] is now the oldest leaf, then [1, 1, 2, 2], then its parent; the pinned block never goes.
    let taken: Vec<u32> = (0..3).map(|_| kv.allocate().unwrap()).collect();
    assert_eq!(taken, [3, 1, 0]);
    assert_eq!(kv.allocate(), None);
    kv.match_prefix(&tenant("b"), plain(&[3, 3]), 1, &mut blocks);
    assert_eq!(blocks, [2]);
}

#[test]
fn what_a_window_left_behind_is_found_until_it_is_taken_and_then_nothing_below_it_is() {
    let mut kv = pool(6);
    let tokens = vec![1, 1, 2, 2, 3, 3, 4, 4];
    let mut long = start(&mut kv, tokens.clone()).unwrap();
    publish(&mut kv, &mut long);
    long.let_go(&mut kv, 2);
    assert_eq!(long.blocks, [NULL_BLOCK, NULL_BLOCK, 2, 3]);
    assert_eq!((kv.held(), kv.available()), (2, 4));
    let mut again = start(&mut kv, tokens.clone()).unwrap();
    assert_eq!((again.matched, &again.blocks[..]), (4, &[0, 1, 2, 3][..]));
    kv.release_all(&mut again.blocks);
    // Two are free, and the last of those left behind goes first: the beginning stays as long as it can.
    let taken: Vec<u32> = (0..3).map(|_| kv.allocate().unwrap()).collect();
    assert_eq!((taken, kv.available()), (vec![4, 5, 1], 1));
    assert_eq!(start(&mut kv, vec![1, 1]).unwrap().matched, 1);
    assert!(
        start(&mut kv, tokens).is_none(),
        "only the first block of it is found"
    );
    // The rest is nobody's cache any more, and free as soon as it is let go.
    kv.release_all(&mut long.blocks);
    assert_eq!((kv.held(), kv.available()), (4, 2));
}

#[test]
fn discarded_blocks_take_those_with_them_that_were_let_go_before() {
    let mut kv = pool(4);
    let mut faulty = start(&mut kv, vec![1, 1, 2, 2, 3, 3]).unwrap();
    publish(&mut kv, &mut faulty);
    faulty.let_go(&mut kv, 2);
    kv.discard_all(&mut faulty.blocks);
    assert_eq!(start(&mut kv, vec![1, 1, 2, 2, 3, 3]).unwrap().matched, 0);
}

#[test]
fn discarded_blocks_are_not_found_again_unless_someone_else_holds_them() {
    let mut kv = pool(4);
    let mut shared = start(&mut kv, vec![1, 1]).unwrap();
    publish(&mut kv, &mut shared);
    let mut faulty = start(&mut kv, vec![1, 1, 2, 2]).unwrap();
    publish(&mut kv, &mut faulty);
    kv.discard_all(&mut faulty.blocks);
    assert_eq!(start(&mut kv, vec![1, 1, 2, 2]).unwrap().matched, 1);
}

proptest! {
    /// Random sequences of three owners over a tiny alphabet against a map of everything that was ever published: what
    /// is found is the right block for that very prefix, nothing held or pinned is ever evicted, and the
    /// states add up.
    #[test]
    fn agrees_with_a_naive_model(
        operations in prop::collection::vec(
            (0u8..5, 0usize..3, prop::collection::vec(0u32..2, 2..=8), any::<prop::sample::Index>()),
            1..80,
        ),
    ) {
        let mut kv = pool(BLOCKS);
        let owners = [Owner::Everyone, tenant("a"), tenant("b")];
        // Block -> its owner and its whole prefix.
        let mut contents: HashMap<u32, (usize, Vec<u32>)> = HashMap::new();
        let mut holders: Vec<Holder> = Vec::new();
        let mut pinned: HashSet<Vec<u32>> = HashSet::new();
        for (operation, owner, tokens, pick) in operations {
            match operation {
                0 | 1 => {
                    let starts = start_with(&mut kv, owners[owner].clone(), None, tokens);
                    let Some(mut holder) = starts else { continue };
                    for (i, block) in holder.blocks.iter().enumerate() {
                        let prefix = holder.tokens[..(i + 1) * BLOCK].to_vec();
                        if i < holder.matched {
                            let (found, content) = &contents[block];
                            prop_assert_eq!(content, &prefix);
                            prop_assert!([0, owner].contains(found), "another tenant's block");
                        } else {
                            for other in &holders {
                                prop_assert!(!other.held().contains(block), "a held block was given away");
                            }
                            if let Some((0, old)) = contents.get(block) {
                                prop_assert!(!pinned.contains(old), "a pinned block was given away");
                            }
                        }
                    }
                    let matched = holder.matched;
                    publish(&mut kv, &mut holder);
                    for (i, &block) in holder.blocks.iter().enumerate().skip(matched) {
                        let entry = (owner, holder.tokens[..(i + 1) * BLOCK].to_vec());
                        contents.retain(|_, old| *old != entry);
                        contents.insert(block, entry);
                    }
                    holders.push(holder);
                }
                2 if !holders.is_empty() => {
                    let mut holder = holders.swap_remove(pick.index(holders.len()));
                    kv.release_all(&mut holder.blocks);
                }
                4 if !holders.is_empty() => {
                    let holder = pick.index(holders.len());
                    let count = tokens[0] as usize + 1;
                    let holder = &mut holders[holder];
                    // The last one stays, as the parent of the next.
                    if holder.gone < count && count < holder.blocks.len() {
                        holder.let_go(&mut kv, count);
                    }
                }
                3 if !holders.is_empty() && pinned.len() < 3 => {
                    let holder = &holders[pick.index(holders.len())];
                    if holder.gone > 0 || holder.owner != Owner::Everyone {
                        continue;
                    }
                    kv.pin(&holder.blocks[..1]);
                    pinned.insert(holder.tokens[..BLOCK].to_vec());
                }
                _ => {}
            }
            let held: HashSet<u32> = holders.iter().flat_map(|h| h.held().iter().copied()).collect();
            let pinned_idle = contents
                .iter()
                .filter(|(block, (owner, prefix))| {
                    *owner == 0 && pinned.contains(prefix) && !held.contains(block)
                })
                .count();
            prop_assert_eq!(kv.held(), held.len());
            prop_assert_eq!(kv.pinned(), pinned.len());
            prop_assert!(pinned_idle <= pinned.len());
            prop_assert_eq!(kv.available() + held.len() + pinned_idle, kv.total());
        }
        // All that is available can really be had.
        let available = kv.available();
        for _ in 0..available {
            prop_assert!(kv.allocate().is_some());
        }
        prop_assert_eq!(kv.allocate(), None);
    }
}
