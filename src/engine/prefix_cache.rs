//! A radix tree over full blocks of tokens: which KV block holds the keys and values of which prefix.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{Tenant, prefix::Owner};
use crate::backend::AdapterIndex;

/// What a block follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// Nothing: it is the first of sequences that run with this adapter, or without one. Nothing below two
    /// roots is ever shared.
    Root(Option<AdapterIndex>),
    /// This block.
    Block(u32),
}

type Blocks = HashMap<Arc<[u32]>, u32>;

/// The blocks that continue a prefix, by their tokens. Two owners may each have one for the same tokens.
#[derive(Debug, Default)]
struct Children {
    everyone: Blocks,
    /// None is empty.
    tenants: HashMap<Tenant, Blocks>,
}

impl Children {
    fn find(&self, reader: &Owner, tokens: &[u32]) -> Option<u32> {
        let own = || match reader {
            Owner::Everyone => None,
            Owner::Tenant(tenant) => self.tenants.get(tenant)?.get(tokens),
        };
        self.everyone.get(tokens).or_else(own).copied()
    }

    fn insert(&mut self, owner: &Owner, tokens: Arc<[u32]>, block: u32) {
        let blocks = match owner {
            Owner::Everyone => &mut self.everyone,
            Owner::Tenant(tenant) => self.tenants.entry(tenant.clone()).or_default(),
        };
        blocks.insert(tokens, block);
    }

    fn remove(&mut self, owner: &Owner, tokens: &[u32]) {
        match owner {
            Owner::Everyone => {
                self.everyone.remove(tokens);
            }
            Owner::Tenant(tenant) => {
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
    owner: Owner,
    tokens: Arc<[u32]>,
    children: Children,
    /// How many of them are idle.
    idle_children: usize,
    pinned: bool,
    /// When the last sequence let go of it; `None` while one holds it.
    idle_since: Option<u64>,
}

/// The tree. A node is one block, so nodes are named by their block's id, and the path from the root is the
/// prefix. Everyone's nodes have everyone's above them; a tenant's may be below either kind, its own or everyone's.
///
/// Whoever pins a node also pins its ancestors, and whoever holds one also holds its ancestors or lets go of them
/// for good (the caller sees to that). So all idle nodes that are not pinned can be evicted: leaves first, then
/// those that only held ones are below. The latter leave the tree with everything below them, since a prefix without
/// its beginning is not found.
#[derive(Debug)]
pub struct PrefixCache {
    nodes: Vec<Option<Node>>,
    roots: HashMap<Option<AdapterIndex>, Children>,
    /// Idle leaves that are not pinned, the longest idle first.
    leaves: BTreeSet<(u64, u32)>,
    /// Idle nodes that are not pinned and all of whose children are held.
    left_behind: BTreeSet<(u64, u32)>,
    clock: u64,
    evictable: usize,
    pinned: usize,
}

impl PrefixCache {
    /// An empty tree for a pool of `blocks` blocks.
    pub fn new(blocks: usize) -> Self {
        Self {
            nodes: (0..blocks).map(|_| None).collect(),
            roots: HashMap::new(),
            leaves: BTreeSet::new(),
            left_behind: BTreeSet::new(),
            clock: 0,
            evictable: 0,
            pinned: 0,
        }
    }

    /// The block that continues the prefix `parent` with one block of tokens, where sequences of `reader` find it.
    pub fn child(&self, parent: Parent, reader: &Owner, tokens: &[u32]) -> Option<u32> {
        let children = match parent {
            Parent::Root(adapter) => self.roots.get(&adapter)?,
            Parent::Block(parent) => &self.node(parent)?.children,
        };
        children.find(reader, tokens)
    }

    /// Whether the block is in the tree.
    pub fn contains(&self, block: u32) -> bool {
        self.node(block).is_some()
    }

    /// Adds a held block of `owner` below `parent`, which the owner's sequences found. Nothing happens when the
    /// parent is not in the tree, or the block is, or the owner's sequences find the same prefix already.
    pub fn insert(&mut self, parent: Parent, owner: &Owner, tokens: &[u32], block: u32) {
        let parent_known = match parent {
            Parent::Root(_) => true,
            Parent::Block(parent) => self.contains(parent),
        };
        if !parent_known || self.contains(block) || self.child(parent, owner, tokens).is_some() {
            return;
        }
        let tokens: Arc<[u32]> = tokens.into();
        self.nodes[block as usize] = Some(Node {
            parent,
            owner: owner.clone(),
            tokens: Arc::clone(&tokens),
            children: Children::default(),
            idle_children: 0,
            pinned: false,
            idle_since: None,
        });
        if let Some(children) = self.children_mut(parent) {
            children.insert(owner, tokens, block);
        }
        self.refresh_parent(parent);
    }

    /// A sequence now holds the block.
    pub fn hold(&mut self, block: u32) {
        let Some(node) = self.node_mut(block) else { return };
        let (pinned, parent) = (node.pinned, node.parent);
        if let Some(since) = node.idle_since.take() {
            self.leaves.remove(&(since, block));
            self.left_behind.remove(&(since, block));
            self.evictable -= usize::from(!pinned);
            self.count_idle_child(parent, |count| count - 1);
        }
    }

    /// No sequence holds the block any more.
    pub fn idle(&mut self, block: u32) {
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

    /// Keeps the block for good.
    pub fn pin(&mut self, block: u32) {
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

    /// Drops the leaf that has been idle longest; where there is none, the node that was left behind first, with
    /// everything below it. Hands out each block that nobody has now.
    pub fn evict(&mut self, mut free: impl FnMut(u32)) {
        let Some((_, block)) = self.leaves.pop_first().or_else(|| self.left_behind.pop_first()) else {
            return;
        };
        let mut branch = vec![block];
        while let Some(block) = branch.pop() {
            let Some(node) = self.take(block) else { continue };
            branch.extend(node.children.into_blocks());
            if node.idle_since.is_some() {
                free(block);
            }
        }
    }

    /// The blocks of the prefix that this one continues, the last first.
    pub fn ancestors(&self, block: u32) -> impl Iterator<Item = u32> + '_ {
        let parent = |block: u32| match self.node(block)?.parent {
            Parent::Block(parent) => Some(parent),
            Parent::Root(_) => None,
        };
        std::iter::successors(parent(block), move |&block| parent(block))
    }

    /// Drops this block if it is an evictable leaf.
    pub fn evict_leaf(&mut self, block: u32) -> bool {
        let since = self.node(block).and_then(|node| node.idle_since);
        let removed = since.is_some_and(|since| self.leaves.remove(&(since, block)));
        if removed {
            self.take(block);
        }
        removed
    }

    /// Blocks that [`PrefixCache::evict`] can give back, one after the other.
    pub fn evictable(&self) -> usize {
        self.evictable
    }

    /// Blocks that are kept for good.
    pub fn pinned(&self) -> usize {
        self.pinned
    }

    /// Whether this block is kept for good.
    pub fn is_pinned(&self, block: u32) -> bool {
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

    /// Takes a node that is not pinned from the tree, whatever is below it.
    fn take(&mut self, block: u32) -> Option<Node> {
        let node = self.nodes[block as usize].take()?;
        if let Some(since) = node.idle_since {
            self.leaves.remove(&(since, block));
            self.left_behind.remove(&(since, block));
            self.evictable -= 1;
        }
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

    /// Puts an idle node into `leaves` or `left_behind` or takes it out, after its children or its pin changed.
    fn refresh(&mut self, block: u32) {
        let Some(node) = self.node(block) else { return };
        let Some(since) = node.idle_since else { return };
        let (leaf, last) = (node.children.is_empty(), node.idle_children == 0 && !node.pinned);
        self.leaves.remove(&(since, block));
        self.left_behind.remove(&(since, block));
        if last {
            let set = if leaf {
                &mut self.leaves
            } else {
                &mut self.left_behind
            };
            set.insert((since, block));
        }
    }
}
