//! The block pool with its prefix cache: which blocks are found, which are evicted, and a naive model of all of it.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{
    PrefixKeeper, Tenant,
    kept_prefixes::KEPT_SHARE,
    kv_blocks::KvBlocks,
    prefix::{CacheOwner, Prefix},
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
    owner: CacheOwner,
    adapter: Option<AdapterIndex>,
    tokens: Vec<u32>,
    blocks: Vec<u32>,
    /// Blocks found in the cache when it started.
    matched: usize,
    /// Leading blocks that it has released.
    gone: usize,
}

impl Holder {
    fn held(&self) -> &[u32] {
        &self.blocks[self.gone..]
    }

    fn release_leading(&mut self, kv: &mut KvBlocks, count: usize) {
        kv.release_leading(&mut self.blocks[self.gone..count]);
        self.gone = count;
    }

    /// Releases all blocks, all of them cached, as for a sequence whose keys and values are not trusted.
    fn discard(&mut self, kv: &mut KvBlocks) {
        let cached = Prefix {
            adapter: self.adapter,
            tokens: self.tokens.as_slice(),
        };
        kv.discard_all(&self.owner, cached, &mut self.blocks);
    }
}

fn tenant(name: &str) -> CacheOwner {
    CacheOwner::Tenant(Tenant::named(name).unwrap())
}

fn start(kv: &mut KvBlocks, tokens: Vec<u32>) -> Option<Holder> {
    start_with(kv, tenant("a"), None, tokens)
}

fn start_with(
    kv: &mut KvBlocks,
    owner: CacheOwner,
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

fn cache_all(kv: &mut KvBlocks, holder: &mut Holder) {
    for i in holder.matched..holder.blocks.len() {
        let root = Parent::Root(holder.adapter);
        let parent = i.checked_sub(1).map_or(root, |p| Parent::Block(holder.blocks[p]));
        let chunk = &holder.tokens[i * BLOCK..(i + 1) * BLOCK];
        holder.blocks[i] = kv.cache_block(parent, &holder.owner, chunk, holder.blocks[i]);
    }
}

#[test]
fn a_cached_prefix_is_found_and_a_twin_gives_its_blocks_back() {
    let mut kv = pool(BLOCKS);
    let mut first = start(&mut kv, vec![1, 2, 3, 4]).unwrap();
    let mut twin = start(&mut kv, vec![1, 2, 3, 4]).unwrap();
    assert_eq!(kv.held(), 4);
    cache_all(&mut kv, &mut first);
    cache_all(&mut kv, &mut twin);
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
    let mut policy = start_with(&mut kv, CacheOwner::Everyone, None, vec![1, 2]).unwrap();
    cache_all(&mut kv, &mut policy);
    kv.pin(&policy.blocks);
    for name in ["a", "b"] {
        let mut first = start_with(&mut kv, tenant(name), None, vec![1, 2, 3, 4]).unwrap();
        assert_eq!(first.matched, 1, "{name} finds the policy and nothing else");
        cache_all(&mut kv, &mut first);
        kv.release_all(&mut first.blocks);
        let mut again = start_with(&mut kv, tenant(name), None, vec![1, 2, 3, 4]).unwrap();
        assert_eq!(again.matched, 2, "{name} finds its own");
        kv.release_all(&mut again.blocks);
    }
    assert_eq!(
        start_with(&mut kv, CacheOwner::Everyone, None, vec![1, 2, 3, 4])
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
        cache_all(&mut kv, &mut holder);
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
            CacheOwner::Everyone
        } else {
            tenant("a")
        };
        let mut holder = start_with(&mut kv, owner, None, tokens).unwrap();
        cache_all(&mut kv, &mut holder);
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
fn blocks_outside_a_window_are_found_until_one_is_evicted_and_then_none_below_it_is() {
    let mut kv = pool(6);
    let tokens = vec![1, 1, 2, 2, 3, 3, 4, 4];
    let mut long = start(&mut kv, tokens.clone()).unwrap();
    cache_all(&mut kv, &mut long);
    long.release_leading(&mut kv, 2);
    assert_eq!(long.blocks, [NULL_BLOCK, NULL_BLOCK, 2, 3]);
    assert_eq!((kv.held(), kv.available()), (2, 4));
    let mut again = start(&mut kv, tokens.clone()).unwrap();
    assert_eq!((again.matched, &again.blocks[..]), (4, &[0, 1, 2, 3][..]));
    kv.release_all(&mut again.blocks);
    // Two are free, and of the released ones the last is evicted first, so that the beginning is kept for longest.
    let taken: Vec<u32> = (0..3).map(|_| kv.allocate().unwrap()).collect();
    assert_eq!((taken, kv.available()), (vec![4, 5, 1], 1));
    assert_eq!(start(&mut kv, vec![1, 1]).unwrap().matched, 1);
    assert!(
        start(&mut kv, tokens).is_none(),
        "only the first block of it is found"
    );
    // The rest is cached no more, and becomes free as soon as it is released.
    kv.release_all(&mut long.blocks);
    assert_eq!((kv.held(), kv.available()), (4, 2));
}

#[test]
fn discarding_blocks_also_discards_those_released_before() {
    // Some of them, or all, as where generated tokens follow that are not cached.
    for released in [2, 3] {
        let mut kv = pool(4);
        let mut faulty = start(&mut kv, vec![1, 1, 2, 2, 3, 3]).unwrap();
        cache_all(&mut kv, &mut faulty);
        faulty.release_leading(&mut kv, released);
        faulty.discard(&mut kv);
        assert_eq!(start(&mut kv, vec![1, 1, 2, 2, 3, 3]).unwrap().matched, 0);
    }
}

#[test]
fn discarded_blocks_are_not_found_again_unless_someone_else_holds_them() {
    let mut kv = pool(4);
    let mut shared = start(&mut kv, vec![1, 1]).unwrap();
    cache_all(&mut kv, &mut shared);
    let mut faulty = start(&mut kv, vec![1, 1, 2, 2]).unwrap();
    cache_all(&mut kv, &mut faulty);
    faulty.discard(&mut kv);
    assert_eq!(start(&mut kv, vec![1, 1, 2, 2]).unwrap().matched, 1);
}

proptest! {
    /// Of random prefixes, some kept and all idle, those that are kept are given away last, and all are given away.
    #[test]
    fn kept_blocks_are_given_away_last(
        prefixes in prop::collection::vec((prop::collection::vec(0u32..3, 2..=8), any::<bool>()), 1..8),
    ) {
        let mut kv = pool(BLOCKS);
        let keepers: Vec<PrefixKeeper> = prefixes.iter().map(|_| PrefixKeeper::default()).collect();
        for ((tokens, is_kept), keeper) in prefixes.into_iter().zip(&keepers) {
            let Some(mut holder) = start(&mut kv, tokens) else { continue };
            cache_all(&mut kv, &mut holder);
            if is_kept && let Some(&last) = holder.blocks.last() {
                kv.keep(keeper, last);
            }
            kv.release_all(&mut holder.blocks);
        }
        let mut kept = kv.kept();
        prop_assert!(kept <= BLOCKS / KEPT_SHARE);
        for left in (0..BLOCKS).rev() {
            let before: Vec<u32> = (0..BLOCKS as u32).filter(|&block| kv.is_kept(block)).collect();
            let block = kv.allocate().unwrap();
            if before.contains(&block) {
                prop_assert_eq!(left + 1, kept, "a block that is not kept was left");
                kept -= 1;
            }
            prop_assert_eq!(kv.kept(), kept);
        }
    }

    /// Compares random sequences of three owners over a tiny alphabet with a map of everything that was ever cached: what is
    /// found is the right block for that very prefix, no held or pinned block is ever evicted, and the counts add up.
    #[test]
    fn agrees_with_a_naive_model(
        operations in prop::collection::vec(
            (0u8..7, 0usize..3, prop::collection::vec(0u32..2, 2..=8), any::<prop::sample::Index>()),
            1..80,
        ),
    ) {
        let mut kv = pool(BLOCKS);
        let owners = [CacheOwner::Everyone, tenant("a"), tenant("b")];
        // The owner and the whole prefix of each block.
        let mut contents: HashMap<u32, (usize, Vec<u32>)> = HashMap::new();
        let mut holders: Vec<Holder> = Vec::new();
        let mut pinned: HashSet<Vec<u32>> = HashSet::new();
        let mut keepers: Vec<PrefixKeeper> = (0..2).map(|_| PrefixKeeper::default()).collect();
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
                    cache_all(&mut kv, &mut holder);
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
                    // The last one is kept, as the parent of the next.
                    if holder.gone < count && count < holder.blocks.len() {
                        holder.release_leading(&mut kv, count);
                    }
                }
                3 if !holders.is_empty() && pinned.len() < 3 => {
                    let holder = &holders[pick.index(holders.len())];
                    if holder.gone > 0 || holder.owner != CacheOwner::Everyone {
                        continue;
                    }
                    kv.pin(&holder.blocks[..1]);
                    pinned.insert(holder.tokens[..BLOCK].to_vec());
                }
                5 if !holders.is_empty() => {
                    if let Some(&last) = holders[pick.index(holders.len())].blocks.last() {
                        kv.keep(&keepers[tokens[0] as usize], last);
                    }
                }
                6 => {
                    keepers[tokens[0] as usize] = PrefixKeeper::default();
                    kv.release_ended();
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
            prop_assert!(kv.kept() <= BLOCKS / KEPT_SHARE);
        }
        keepers.clear();
        kv.release_ended();
        prop_assert_eq!(kv.kept(), 0);
        // All available blocks can really be allocated.
        let available = kv.available();
        for _ in 0..available {
            prop_assert!(kv.allocate().is_some());
        }
        prop_assert_eq!(kv.allocate(), None);
    }
}
