//! A radix tree over full blocks of tokens, which finds the KV blocks that hold the keys and values of a prefix.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{prefix::CacheOwner, tenant::Tenant};
use crate::backend::AdapterIndex;

/// What precedes a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Nothing: it is the first block of sequences that run with this adapter, or without one. Blocks below different
    /// roots are never shared.
    Root(Option<AdapterIndex>),
    /// The block with this id.
    Block(u32),
}

type Blocks = HashMap<Arc<[u32]>, u32>;

/// The blocks that continue a prefix, by their tokens. Two owners may each have a block for the same tokens.
#[derive(Debug, Default)]
struct Children {
    everyone: Blocks,
    /// Tenants without blocks are removed.
    tenants: HashMap<Tenant, Blocks>,
}

impl Children {
    fn find(&self, reader: &CacheOwner, tokens: &[u32]) -> Option<u32> {
        let own = || match reader {
            CacheOwner::Everyone => None,
            CacheOwner::Tenant(tenant) => self.tenants.get(tenant)?.get(tokens),
        };
        self.everyone.get(tokens).or_else(own).copied()
    }

    fn insert(&mut self, owner: &CacheOwner, tokens: Arc<[u32]>, block: u32) {
        let blocks = match owner {
            CacheOwner::Everyone => &mut self.everyone,
            CacheOwner::Tenant(tenant) => self.tenants.entry(tenant.clone()).or_default(),
        };
        blocks.insert(tokens, block);
    }

    fn remove(&mut self, owner: &CacheOwner, tokens: &[u32]) {
        match owner {
            CacheOwner::Everyone => {
                self.everyone.remove(tokens);
            }
            CacheOwner::Tenant(tenant) => {
                if let Some(blocks) = self.tenants.get_mut(tenant) {
                    blocks.remove(tokens);
                    if blocks.is_empty() {
                        self.tenants.remove(tenant);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.everyone.is_empty() && self.tenants.is_empty()
    }

    fn into_blocks(self) -> impl Iterator<Item = u32> {
        let own = self.tenants.into_values().flat_map(HashMap::into_values);
        self.everyone.into_values().chain(own)
    }
}

#[derive(Debug)]
struct Node {
    parent: Parent,
    owner: CacheOwner,
    tokens: Arc<[u32]>,
    children: Children,
    /// How many of the children are idle.
    idle_children: usize,
    pinned: bool,
    /// How many growing texts it is kept for.
    keepers: u32,
    /// Tells it from other nodes that its block has been or will be.
    serial: u64,
    /// When the last sequence released it; `None` while a sequence holds it.
    idle_since: Option<u64>,
    /// Its entry among the nodes that can be evicted next.
    candidacy: Option<Candidacy>,
}

/// A node that can be evicted next. The smallest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidacy {
    /// Nodes that are kept for growing texts go after all others.
    is_kept: bool,
    /// Leaves go before inner nodes below which all nodes are held.
    is_inner: bool,
    /// The longest idle goes first.
    idle_since: u64,
    block: u32,
}

/// A node that is kept, which may have been evicted since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptNode {
    block: u32,
    serial: u64,
}

/// The tree. A node is one block and is named by the block's id; the path from the root to it is the prefix. Above nodes
/// that everyone finds there are only such nodes; above a tenant's nodes there may be nodes of either kind.
///
/// The caller ensures that a sequence that pins a node also pins its ancestors, that a text which keeps a node keeps its
/// ancestors, and that a sequence that holds a node also holds its ancestors or has released them for good. So all idle nodes that are not pinned can be evicted: leaves
/// first, then inner nodes below which all nodes are held. The latter leave the tree together with everything below
/// them, because a prefix without its beginning cannot be found.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    nodes: Vec<Option<Node>>,
    roots: HashMap<Option<AdapterIndex>, Children>,
    /// Idle nodes that are not pinned and all of whose children, if any, are held.
    candidates: BTreeSet<Candidacy>,
    clock: u64,
    serials: u64,
    evictable: usize,
    pinned: usize,
    kept: usize,
}

impl PrefixCache {
    /// An empty tree for a pool of `blocks` blocks.
    pub(crate) fn new(blocks: usize) -> Self {
        Self {
            nodes: (0..blocks).map(|_| None).collect(),
            roots: HashMap::new(),
            candidates: BTreeSet::new(),
            clock: 0,
            serials: 0,
            evictable: 0,
            pinned: 0,
            kept: 0,
        }
    }

    /// The block that continues the prefix `parent` with one block of tokens, where sequences of `reader` find it.
    pub(crate) fn child(&self, parent: Parent, reader: &CacheOwner, tokens: &[u32]) -> Option<u32> {
        let children = match parent {
            Parent::Root(adapter) => self.roots.get(&adapter)?,
            Parent::Block(parent) => &self.node(parent)?.children,
        };
        children.find(reader, tokens)
    }

    /// Whether the block is in the tree.
    pub(crate) fn contains(&self, block: u32) -> bool {
        self.node(block).is_some()
    }

    /// Adds a held block of `owner` below `parent`, which the owner's sequences find. Nothing happens when the parent is
    /// not in the tree, when the block is in it already, or when the owner's sequences find the same prefix already.
    pub(crate) fn insert(&mut self, parent: Parent, owner: &CacheOwner, tokens: &[u32], block: u32) {
        let parent_known = match parent {
            Parent::Root(_) => true,
            Parent::Block(parent) => self.contains(parent),
        };
        if !parent_known || self.contains(block) || self.child(parent, owner, tokens).is_some() {
            return;
        }
        let tokens: Arc<[u32]> = tokens.into();
        self.serials += 1;
        self.nodes[block as usize] = Some(Node {
            parent,
            owner: owner.clone(),
            tokens: Arc::clone(&tokens),
            children: Children::default(),
            idle_children: 0,
            pinned: false,
            keepers: 0,
            serial: self.serials,
            idle_since: None,
            candidacy: None,
        });
        if let Some(children) = self.children_mut(parent) {
            children.insert(owner, tokens, block);
        }
        self.refresh_parent(parent);
    }

    /// Notes that a sequence holds the block now.
    pub(crate) fn hold(&mut self, block: u32) {
        let Some(node) = self.node_mut(block) else { return };
        let (pinned, parent) = (node.pinned, node.parent);
        if node.idle_since.take().is_some() {
            self.refresh(block);
            self.evictable -= usize::from(!pinned);
            self.count_idle_child(parent, |count| count - 1);
        }
    }

    /// Notes that no sequence holds the block any more.
    pub(crate) fn idle(&mut self, block: u32) {
        self.clock += 1;
        let clock = self.clock;
        let Some(node) = self.node_mut(block) else { return };
        if node.idle_since.is_some() {
            return;
        }
        node.idle_since = Some(clock);
        let (pinned, parent) = (node.pinned, node.parent);
        self.evictable += usize::from(!pinned);
        self.refresh(block);
        self.count_idle_child(parent, |count| count + 1);
    }

    /// Keeps the block until the cache is cleared.
    pub(crate) fn pin(&mut self, block: u32) {
        let Some(node) = self.node_mut(block) else { return };
        if node.pinned {
            return;
        }
        node.pinned = true;
        let was_evictable = node.idle_since.is_some();
        self.pinned += 1;
        self.evictable -= usize::from(was_evictable);
        self.refresh(block);
    }

    /// Keeps the block for a growing text: it is evicted after all blocks that are not kept. A block may be kept for several
    /// texts. `None` where it is not in the tree, or is pinned.
    pub(crate) fn keep(&mut self, block: u32) -> Option<KeptNode> {
        let node = self.node_mut(block).filter(|node| !node.pinned)?;
        node.keepers += 1;
        let (serial, is_first) = (node.serial, node.keepers == 1);
        self.kept += usize::from(is_first);
        self.refresh(block);
        Some(KeptNode { block, serial })
    }

    /// Keeps the block for one text less. Nothing happens if it has been evicted.
    pub(crate) fn unkeep(&mut self, kept: KeptNode) {
        let KeptNode { block, serial } = kept;
        let Some(node) = self.node_mut(block).filter(|node| node.serial == serial) else {
            return;
        };
        node.keepers -= 1;
        let is_last = node.keepers == 0;
        self.kept -= usize::from(is_last);
        self.refresh(block);
    }

    /// Whether the block is kept for a growing text.
    #[cfg(test)]
    pub(crate) fn is_kept(&self, block: u32) -> bool {
        self.node(block).is_some_and(|node| node.keepers > 0)
    }

    /// Number of blocks that are kept for growing texts.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Evicts the leaf that is not kept and has been idle longest. Where there is none, evicts the inner node of which the same is
    /// true, with everything below it; then kept leaves, and then kept inner nodes. Calls `free` with each block that no sequence
    /// holds.
    pub(crate) fn evict(&mut self, mut free: impl FnMut(u32)) {
        let Some(Candidacy { block, .. }) = self.candidates.first().copied() else {
            return;
        };
        let mut branch = vec![block];
        while let Some(block) = branch.pop() {
            let Some(node) = self.remove(block) else { continue };
            branch.extend(node.children.into_blocks());
            if node.idle_since.is_some() {
                free(block);
            }
        }
    }

    /// The blocks before this one in its prefix, the last first.
    pub(crate) fn ancestors(&self, block: u32) -> impl Iterator<Item = u32> + '_ {
        let parent = |block: u32| match self.node(block)?.parent {
            Parent::Block(parent) => Some(parent),
            Parent::Root(_) => None,
        };
        std::iter::successors(parent(block), move |&block| parent(block))
    }

    /// Evicts this block if it is an idle leaf that is not pinned. Returns whether it was.
    pub(crate) fn evict_leaf(&mut self, block: u32) -> bool {
        let candidacy = self.node(block).and_then(|node| node.candidacy);
        let is_leaf = candidacy.is_some_and(|candidacy| !candidacy.is_inner);
        if is_leaf {
            self.remove(block);
        }
        is_leaf
    }

    /// Number of blocks that repeated calls of [`PrefixCache::evict`] can make free.
    pub(crate) fn evictable(&self) -> usize {
        self.evictable
    }

    /// Number of pinned blocks.
    pub(crate) fn pinned(&self) -> usize {
        self.pinned
    }

    /// Whether this block is pinned.
    pub(crate) fn is_pinned(&self, block: u32) -> bool {
        self.node(block).is_some_and(|node| node.pinned)
    }

    fn node(&self, block: u32) -> Option<&Node> {
        self.nodes.get(block as usize)?.as_ref()
    }

    fn node_mut(&mut self, block: u32) -> Option<&mut Node> {
        self.nodes.get_mut(block as usize)?.as_mut()
    }

    fn children_mut(&mut self, parent: Parent) -> Option<&mut Children> {
        match parent {
            Parent::Root(adapter) => Some(self.roots.entry(adapter).or_default()),
            Parent::Block(parent) => self.node_mut(parent).map(|node| &mut node.children),
        }
    }

    /// Removes a node that is not pinned from the tree, whatever is below it.
    fn remove(&mut self, block: u32) -> Option<Node> {
        let node = self.nodes[block as usize].take()?;
        if let Some(candidacy) = &node.candidacy {
            self.candidates.remove(candidacy);
        }
        self.evictable -= usize::from(node.idle_since.is_some());
        self.kept -= usize::from(node.keepers > 0);
        if let Some(children) = self.children_mut(node.parent) {
            children.remove(&node.owner, &node.tokens);
        }
        if node.idle_since.is_some() {
            self.count_idle_child(node.parent, |count| count - 1);
        } else {
            self.refresh_parent(node.parent);
        }
        Some(node)
    }

    fn count_idle_child(&mut self, parent: Parent, change: impl Fn(usize) -> usize) {
        if let Parent::Block(parent) = parent
            && let Some(node) = self.node_mut(parent)
        {
            node.idle_children = change(node.idle_children);
            self.refresh(parent);
        }
    }

    fn refresh_parent(&mut self, parent: Parent) {
        if let Parent::Block(parent) = parent {
            self.refresh(parent);
        }
    }

    /// Updates whether, and when, a node can be evicted next, after it, its children, its pin or its keepers changed.
    fn refresh(&mut self, block: u32) {
        let Some(node) = self.nodes.get_mut(block as usize).and_then(Option::as_mut) else {
            return;
        };
        let idle_since = node
            .idle_since
            .filter(|_| node.idle_children == 0 && !node.pinned);
        let candidacy = idle_since.map(|idle_since| Candidacy {
            is_kept: node.keepers > 0,
            is_inner: !node.children.is_empty(),
            idle_since,
            block,
        });
        let before = std::mem::replace(&mut node.candidacy, candidacy);
        if before != candidacy {
            if let Some(before) = before {
                self.candidates.remove(&before);
            }
            self.candidates.extend(candidacy);
        }
    }
}
