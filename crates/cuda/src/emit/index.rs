//! Where elements are: the words of the argument block, and offsets from indices.
//!
//! Sizes and strides are words of the argument block, so one text serves all sizes. Indices are 32 bits wide where every
//! offset of the launch fits (`Class::wide` says so), and sizes are then divided by with a multiplication.

use super::text::Text;
use super::{Class, Field, Group, Unit};
use numfuse_core::kernel::{Access, Kernel, Level, Role};
use numfuse_core::launch::{Launch, Layout};

/// The words that a text uses, in order of their first use.
#[derive(Clone, Default, Debug)]
pub(super) struct Fields {
    pub list: Vec<Field>,
}

impl Group {
    /// Its name in the text.
    fn name(self) -> &'static str {
        match self {
            Group::Outer => "outer",
            Group::Reduced => "reduced",
            Group::Inner => "inner",
        }
    }

    /// The sizes of its dimensions.
    fn sizes(self, launch: &Launch) -> &[usize] {
        match self {
            Group::Outer => &launch.outer,
            Group::Reduced => &launch.reduced,
            Group::Inner => &launch.inner,
        }
    }

    /// An operand's strides along it.
    fn strides(self, layout: &Layout) -> &[isize] {
        match self {
            Group::Outer => &layout.outer,
            Group::Reduced => &layout.reduced,
            Group::Inner => &layout.inner,
        }
    }

    fn count(self, launch: &Launch) -> usize {
        self.sizes(launch).iter().product()
    }
}

impl Fields {
    /// The word as an expression.
    pub fn word(&mut self, field: Field) -> String {
        if !self.list.contains(&field) {
            self.list.push(field);
        }
        format!("a.{}", name(field))
    }

    /// The struct.
    pub fn declare(&self, text: &mut Text, kernel: &Kernel) {
        text.open("struct Args");
        for field in &self.list {
            let ty = match field {
                Field::Operand(n) if kernel.operands[*n as usize].role == Role::In => "const char*",
                Field::Operand(_) | Field::Workspace => "char*",
                Field::Divisor(..) | Field::VectorsDivisor => "u64",
                _ => "i64",
            };
            text.line(&format!("{ty} {};", name(*field)));
        }
        if self.list.is_empty() {
            text.line("i64 none;");
        }
        text.close_with(";");
    }
}

fn name(field: Field) -> String {
    match field {
        Field::Operand(n) => format!("m{n}"),
        Field::Param(n) => format!("p{n}"),
        Field::Count(Group::Outer) => "rows".into(),
        Field::Count(Group::Reduced) => "reduced".into(),
        Field::Count(Group::Inner) => "n".into(),
        Field::Size(group, d) => format!("{}{d}", group.name()),
        Field::Divisor(group, d) => format!("by_{}{d}", group.name()),
        Field::Stride(n, group, d) => format!("m{n}_{}{d}", group.name()),
        Field::Vectors => "vectors".into(),
        Field::VectorsDivisor => "by_vectors".into(),
        Field::Workspace => "workspace".into(),
    }
}

/// The value of a word.
pub(super) fn word(
    field: Field,
    class: &Class,
    launch: &Launch,
    pointers: &[u64],
    params: &[u64],
    workspace: u64,
) -> u64 {
    let vectors = || launch.inner_len() / class.schedule.vector().max(1);
    match field {
        Field::Operand(n) => pointers[n as usize],
        Field::Param(n) => params[n as usize],
        Field::Count(group) => group.count(launch) as u64,
        Field::Size(group, d) => group.sizes(launch)[d as usize] as u64,
        Field::Divisor(group, d) => divisor(group.sizes(launch)[d as usize] as u64, class.wide),
        Field::Stride(n, group, d) => {
            group.strides(&launch.layouts[n as usize]).get(d as usize).copied().unwrap_or(0) as u64
        }
        Field::Vectors => vectors() as u64,
        Field::VectorsDivisor => divisor(vectors() as u64, class.wide),
        Field::Workspace => workspace,
    }
}

/// What `divide` takes: the size itself for wide indices, else a multiplier and, above it, a shift.
pub(super) fn divisor(size: u64, wide: bool) -> u64 {
    let size = size.max(1);
    if wide {
        return size;
    }
    let shift = u64::from(64 - (size - 1).leading_zeros());
    let multiplier = ((((1u64 << shift) - size) << 32) / size) + 1;
    multiplier & 0xffff_ffff | shift << 32
}

impl Unit<'_> {
    /// Declares the indices along a group of dimensions: `{prefix}0`, `{prefix}1`, ... of a linear index, an expression.
    pub(super) fn indices(&mut self, group: Group, linear: &str, prefix: &str) {
        let rank = self.class.rank(group);
        match rank {
            0 => return,
            1 => return self.text.line(&format!("const idx {prefix}0 = {linear};")),
            _ => {}
        }
        self.uses.divide = true;
        let mut rest = linear.to_owned();
        for d in (1..rank).rev() {
            let (by, size) = (self.fields.word(Field::Divisor(group, d)), self.fields.word(Field::Size(group, d)));
            let quotient = if d == 1 { format!("{prefix}0") } else { format!("{prefix}_{d}") };
            self.text.line(&format!("const idx {quotient} = divide({rest}, {by});"));
            self.text.line(&format!("const idx {prefix}{d} = {rest} - {quotient} * (idx){size};"));
            rest = quotient;
        }
    }

    /// The byte offset of an operand from indices that [`Unit::indices`] declared; none if it is 0.
    pub(super) fn offset(&mut self, operand: usize, group: Group, prefix: &str) -> Option<String> {
        let terms: Vec<String> = (0..self.class.rank(group))
            .map(|d| {
                let stride = self.fields.word(Field::Stride(operand as u32, group, d));
                format!("{prefix}{d} * (idx){stride}")
            })
            .collect();
        (!terms.is_empty()).then(|| terms.join(" + "))
    }

    /// Declares `{name}{operand}`: the address of a row's first element, from the operand's and indices of its group.
    pub(super) fn row_pointer(&mut self, operand: usize, group: Group, prefix: &str, name: &str, base: &str) {
        let ty = if self.kernel.operands[operand].role == Role::In { "const char*" } else { "char*" };
        let offset = self.offset(operand, group, prefix).map(|o| format!(" + ({o})")).unwrap_or_default();
        self.text.line(&format!("{ty} const {name}{operand} = {base}{offset};"));
    }

    /// How an operand steps along the inner loop.
    pub(super) fn access(&self, operand: usize) -> Inner {
        let data = &self.kernel.operands[operand];
        if data.level == Level::Row {
            return Inner::Row;
        }
        match (data.access, self.class.rank(Group::Inner)) {
            (_, 0) | (Access::Broadcast, _) => Inner::Row,
            (Access::Unit, 1) => Inner::Unit,
            (_, 1) => Inner::Strided,
            _ => Inner::Several,
        }
    }
}

/// How an operand steps along the inner loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inner {
    /// Not at all.
    Row,
    /// From one element to the next.
    Unit,
    /// By a stride.
    Strided,
    /// Along several dimensions.
    Several,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_divide() {
        let divide = |x: u64, by: u64| (((x * (by & 0xffff_ffff)) >> 32) + x) >> (by >> 32);
        for size in (1..300).chain([1000, 1023, 1024, 1025, 65537, 0x7fff_fffe, 0x7fff_ffff]) {
            let by = divisor(size, false);
            for x in (0..1000).chain([size - 1, size, size + 1, 0x3fff_ffff, 0x7fff_fffe, 0x7fff_ffff]) {
                if x < 1 << 31 {
                    assert_eq!(divide(x, by), x / size, "{x} / {size}");
                }
            }
        }
    }
}
