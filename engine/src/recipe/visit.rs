//! Visits every node of a recipe, past those that are damaged, and only where wanted.

use super::read::chunk_refs;
use super::{NodePlace, Recipe, RecipeError};
use crate::chunker::ChunkRef;
use crate::format::recipe::{Child, Node};
use crate::id::NodeId;

/// Is told what [`Recipe::visit`] comes across.
pub trait NodeVisitor {
    /// Returns whether to read a node, and what is below it. Nodes above come first. One that was
    /// seen before, at the same place in a recipe of the same shape, need not be read again.
    fn enter(&mut self, node: NodeId, place: NodePlace) -> bool;

    /// Takes the chunks of a leaf that was entered, in disk order.
    fn leaf(&mut self, node: NodeId, place: NodePlace, chunks: &[ChunkRef]);

    /// Takes a fault: what is below the node that it names is not visited, the rest is.
    fn fault(&mut self, fault: RecipeError);
}

impl Recipe<'_> {
    /// Visits the nodes of the tree in disk order. An empty recipe has none.
    pub fn visit(&self, visitor: &mut dyn NodeVisitor) {
        if self.is_empty() {
            return;
        }
        let mut walk = Walk {
            recipe: self,
            visitor,
            decided: 0,
        };
        walk.node(self.shape().root_place(), self.root(), None);
    }
}

struct Walk<'a> {
    recipe: &'a Recipe<'a>,
    visitor: &'a mut dyn NodeVisitor,
    /// Where the last chunk seen ends.
    decided: u64,
}

impl Walk<'_> {
    /// Visits a node and what is below it; the tree's height bounds the recursion.
    fn node(&mut self, place: NodePlace, id: NodeId, child: Option<&Child>) {
        if !self.visitor.enter(id, place) {
            return;
        }
        let node = match child {
            Some(child) => self.recipe.child_node(place, child),
            None => self.recipe.root_node(),
        };
        match node.as_deref() {
            Ok(Node::Inner(inner)) => {
                for child in &inner.children {
                    self.node(place.child(child.slot), child.id, Some(child));
                }
            }
            Ok(leaf @ Node::Leaf(_)) => self.leaf(place, id, leaf),
            Err(_) => {}
        }
        if let Err(fault) = node {
            self.visitor.fault(fault);
        }
    }

    fn leaf(&mut self, place: NodePlace, id: NodeId, node: &Node) {
        let chunks: Vec<ChunkRef> = chunk_refs(self.recipe.shape(), place, node).collect();
        if chunks
            .first()
            .is_some_and(|first| first.offset < self.decided)
        {
            self.visitor.fault(RecipeError::Inconsistent {
                node: id,
                place,
                rule: "chunks of neighbouring leaves do not overlap",
            });
        }
        if let Some(last) = chunks.last() {
            self.decided = last.end();
        }
        self.visitor.leaf(id, place, &chunks);
    }
}
