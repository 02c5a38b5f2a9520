//! Prints a graph so that people can read it and [`super::parse`] can read it back: one line for each node, operands
//! before users, then what has to hold between sizes, the guards, and what is returned.
//!
//! ```text
//! graph {
//!   n0 = input a: f64[n]
//!   n1 = const 2.0: f64 weak
//!   n2 = multiply n1, n0: f64[n]
//!   n3 = sum n2 axes=[0]: f64
//!   n4 = index n0 [1:-1, None]: f64[n[1:-1], 1]
//!   return n3, n4
//! }
//! ```
//!
//! The text leaves out what only serves messages: the spans of constraints and the texts of guards.

use super::{Graph, IndexItem, NodeId, NodeKind};
use crate::shape::{Constraint, ConstraintKind};
use std::fmt::{self, Display, Formatter};

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {{")?;
        for id in self.ids() {
            writeln!(f, "  {}", self.display_node(id))?;
        }
        for Constraint { kind, .. } in self.dims.constraints() {
            f.write_str("  require ")?;
            match kind {
                ConstraintKind::Equal(a, b) => writeln!(f, "{} == {}", self.dims.name(*a), self.dims.name(*b))?,
                ConstraintKind::One(dim) => writeln!(f, "{} == 1", self.dims.name(*dim))?,
                ConstraintKind::InRange(dim, index) => writeln!(f, "{index} in {}", self.dims.name(*dim))?,
                ConstraintKind::NonEmpty(dims, of) => writeln!(f, "nonempty {} for {of}", self.dims.display(dims))?,
                ConstraintKind::Product(left, right) => {
                    writeln!(f, "product {} {}", self.dims.display(left), self.dims.display(right))?;
                }
            }
        }
        for guard in &self.guards {
            writeln!(f, "  guard {} {}", guard.node, guard.error.code)?;
        }
        writeln!(f, "  return{}", List(&self.outputs))?;
        f.write_str("}")
    }
}

impl Graph {
    /// A node as its line in the printed graph: `n3 = multiply n1, n0: f64[n]`.
    pub fn display_node(&self, id: NodeId) -> impl Display + '_ {
        struct Line<'a>(&'a Graph, NodeId);
        impl Display for Line<'_> {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                self.0.write_node(f, self.1)
            }
        }
        Line(self, id)
    }

    /// The dtype and the shape of a node: `f64[n, 3]`, or `f64` for a scalar.
    pub fn display_type(&self, id: NodeId) -> impl Display + '_ {
        struct Type<'a>(&'a Graph, NodeId);
        impl Display for Type<'_> {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                let node = self.0.node(self.1);
                write!(f, "{}", node.dtype)?;
                if !node.shape.is_empty() {
                    write!(f, "{}", self.0.dims.display(&node.shape))?;
                }
                f.write_str(if node.weak { " weak" } else { "" })
            }
        }
        Type(self, id)
    }

    fn write_node(&self, f: &mut Formatter<'_>, id: NodeId) -> fmt::Result {
        write!(f, "{id} = ")?;
        match &self.node(id).kind {
            NodeKind::Input(n) => match self.inputs.get(*n as usize) {
                Some(input) if is_identifier(&input.name) => write!(f, "input {}", input.name)?,
                Some(input) => write!(f, "input {:?}", input.name)?,
                None => write!(f, "input #{n}")?,
            },
            NodeKind::Const(literal) => write!(f, "const {literal}")?,
            NodeKind::Size(dims) => write!(f, "size {}", self.dims.display(dims))?,
            NodeKind::Apply(op, args) => write!(f, "{op}{}", List(args))?,
            NodeKind::Cast(x) => write!(f, "cast {x}")?,
            NodeKind::Reduce(reducer, x, axes) => write!(f, "{} {x} axes={axes:?}", reducer.name())?,
            NodeKind::Matmul(operands) => write!(f, "matmul{}", List(operands))?,
            NodeKind::Transpose(x, perm) => write!(f, "transpose {x} {perm:?}")?,
            NodeKind::Index(x, items) => {
                write!(f, "index {x} [")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")?;
            }
        }
        write!(f, ": {}", self.display_type(id))
    }
}

impl Display for IndexItem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            IndexItem::At(index) => write!(f, "{index}"),
            IndexItem::Slice(slice) => write!(f, "{slice}"),
            IndexItem::NewAxis => f.write_str("None"),
        }
    }
}

/// Ids after a space, with commas between.
struct List<'a>(&'a [NodeId]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if i == 0 { " " } else { ", " })?;
        }
        Ok(())
    }
}

/// True for a name that needs no quotes in the printed form.
pub(super) fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_alphabetic() || c == '_') && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}
