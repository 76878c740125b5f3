//! A radix tree over full blocks of tokens: which KV block holds the keys and values of which prefix.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::model::AdapterIndex;

/// What a block follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// Nothing: it is the first of sequences that run with this adapter, or without one. Nothing below two
    /// roots is ever shared.
    Root(Option<AdapterIndex>),
    /// This block.
    Block(u32),
}

type Children = HashMap<Arc<[u32]>, u32>;

#[derive(Debug)]
struct Node {
    parent: Parent,
    tokens: Arc<[u32]>,
    children: Children,
    pinned: bool,
    /// When the last sequence let go of it; `None` while one holds it.
    idle_since: Option<u64>,
}

/// The tree. A node is one block, so nodes are named by their block's id, and the path from the root is the
/// prefix.
///
/// Whoever holds or pins a node also holds or pins its ancestors (the caller sees to that), so everything
/// below an idle node is idle, and all idle nodes that are not pinned can be evicted, leaves first.
#[derive(Debug)]
pub struct PrefixCache {
    nodes: Vec<Option<Node>>,
    roots: HashMap<Option<AdapterIndex>, Children>,
    /// Idle leaves that are not pinned, the longest idle first.
    leaves: BTreeSet<(u64, u32)>,
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
            clock: 0,
            evictable: 0,
            pinned: 0,
        }
    }

    /// The block that continues the prefix `parent` with one block of tokens.
    pub fn child(&self, parent: Parent, tokens: &[u32]) -> Option<u32> {
        let children = match parent {
            Parent::Root(adapter) => self.roots.get(&adapter)?,
            Parent::Block(parent) => &self.node(parent)?.children,
        };
        children.get(tokens).copied()
    }

    /// Whether the block is in the tree.
    pub fn contains(&self, block: u32) -> bool {
        self.node(block).is_some()
    }

    /// Adds a held block below `parent`. Nothing happens when the parent is not in the tree, or the block or
    /// the same prefix already is.
    pub fn insert(&mut self, parent: Parent, tokens: &[u32], block: u32) {
        let parent_known = match parent {
            Parent::Root(_) => true,
            Parent::Block(parent) => self.contains(parent),
        };
        if !parent_known || self.contains(block) || self.child(parent, tokens).is_some() {
            return;
        }
        let tokens: Arc<[u32]> = tokens.into();
        self.nodes[block as usize] = Some(Node {
            parent,
            tokens: Arc::clone(&tokens),
            children: Children::new(),
            pinned: false,
            idle_since: None,
        });
        if let Some(children) = self.children_mut(parent) {
            children.insert(tokens, block);
        }
        self.refresh_parent(parent);
    }

    /// A sequence now holds the block.
    pub fn hold(&mut self, block: u32) {
        let Some(node) = self.node_mut(block) else { return };
        let pinned = node.pinned;
        if let Some(since) = node.idle_since.take() {
            self.leaves.remove(&(since, block));
            self.evictable -= usize::from(!pinned);
        }
    }

    /// No sequence holds the block any more.
    pub fn idle(&mut self, block: u32) {
        self.clock += 1;
        let clock = self.clock;
        let Some(node) = self.node_mut(block) else { return };
        let newly_evictable = node.idle_since.is_none() && !node.pinned;
        node.idle_since.get_or_insert(clock);
        self.evictable += usize::from(newly_evictable);
        self.refresh_leaf(block);
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
        self.refresh_leaf(block);
    }

    /// Drops the leaf that has been idle longest; returns its block.
    pub fn evict(&mut self) -> Option<u32> {
        let (_, block) = self.leaves.pop_first()?;
        self.remove(block);
        Some(block)
    }

    /// Drops this block if it is an evictable leaf.
    pub fn evict_leaf(&mut self, block: u32) -> bool {
        let since = self.node(block).and_then(|node| node.idle_since);
        let removed = since.is_some_and(|since| self.leaves.remove(&(since, block)));
        if removed {
            self.remove(block);
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

    /// Takes an evictable leaf, already out of `leaves`, from the tree.
    fn remove(&mut self, block: u32) {
        let Some(node) = self.nodes[block as usize].take() else {
            return;
        };
        self.evictable -= 1;
        if let Some(children) = self.children_mut(node.parent) {
            children.remove(&node.tokens);
        }
        self.refresh_parent(node.parent);
    }

    fn refresh_parent(&mut self, parent: Parent) {
        if let Parent::Block(parent) = parent {
            self.refresh_leaf(parent);
        }
    }

    /// Puts an idle node into `leaves` or takes it out, after its children or its pin changed.
    fn refresh_leaf(&mut self, block: u32) {
        let Some(node) = self.node(block) else { return };
        let Some(since) = node.idle_since else { return };
        if node.children.is_empty() && !node.pinned {
            self.leaves.insert((since, block));
        } else {
            self.leaves.remove(&(since, block));
        }
    }
}
