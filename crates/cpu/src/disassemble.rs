//! The wide tier's machine code as text for people: Intel syntax, offsets from the beginning, jump targets as labels,
//! constants by their values, routines by their names.

use crate::wide::{Code, name_at};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, MemorySize, OpKind, SymbolResolver,
    SymbolResult,
};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The instructions, one a line: `loop0` is a label that is jumped back to, `L0` any other.
pub(crate) fn listing(code: &Code) -> String {
    let instructions: Vec<Instruction> =
        Decoder::with_ip(64, &code.bytes[..code.instructions], 0, DecoderOptions::NONE).into_iter().collect();
    let labels = labels(&instructions);
    let mut formatter = IntelFormatter::with_options(Some(Box::new(Labels(labels.clone()))), None);
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(true);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_small_hex_numbers_in_decimal(true);
    options.set_show_branch_size(false);
    options.set_rip_relative_addresses(true);
    let mut text = String::new();
    for instruction in &instructions {
        if let Some(label) = labels.get(&instruction.ip()) {
            let _ = writeln!(text, "{label}:");
        }
        let mut line = String::new();
        formatter.format(instruction, &mut line);
        let _ = write!(text, "{:6x}  {line}", instruction.ip());
        let what = match instruction.flow_control() {
            FlowControl::IndirectCall => name_at(instruction.memory_displacement64()),
            _ => constant(&code.bytes, instruction),
        };
        if let Some(what) = what {
            let _ = write!(text, "  ; {what}");
        }
        text.push('\n');
    }
    text
}

/// The names of the places that are jumped to.
fn labels(instructions: &[Instruction]) -> BTreeMap<u64, String> {
    let mut targets: BTreeMap<u64, bool> = BTreeMap::new();
    for (i, instruction) in instructions.iter().enumerate() {
        if matches!(instruction.flow_control(), FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch) {
            let target = instruction.near_branch_target();
            // The last instruction goes from the prologue, which is emitted last, to the body.
            let back = target <= instruction.ip() && i + 1 < instructions.len();
            *targets.entry(target).or_default() |= back;
        }
    }
    let (mut loops, mut others) = (0, 0);
    targets
        .into_iter()
        .map(|(target, is_loop)| {
            let (name, count) = if is_loop { ("loop", &mut loops) } else { ("L", &mut others) };
            *count += 1;
            (target, format!("{name}{}", *count - 1))
        })
        .collect()
}

struct Labels(BTreeMap<u64, String>);

impl SymbolResolver for Labels {
    fn symbol(
        &mut self,
        instruction: &Instruction,
        _operand: u32,
        of_instruction: Option<u32>,
        address: u64,
        _size: u32,
    ) -> Option<SymbolResult<'_>> {
        let is_branch = of_instruction.is_some_and(|n| instruction.op_kind(n) == OpKind::NearBranch64);
        let name = self.0.get(&address).filter(|_| is_branch)?;
        Some(SymbolResult::with_str(address, name))
    }
}

/// The constant that an instruction reads, if it does: a number, or bits where it may be something else.
fn constant(code: &[u8], instruction: &Instruction) -> Option<String> {
    if !instruction.is_ip_rel_memory_operand() {
        return None;
    }
    let at = instruction.ip_rel_memory_address() as usize;
    let bytes = code.get(at..at + instruction.memory_size().size())?;
    let element = instruction.memory_size().element_type();
    // A vector that repeats an element is that element.
    let repeats = |n: &usize| bytes.chunks(*n).all(|chunk| chunk == &bytes[..*n]);
    let period = [1, 2, 4, 8].into_iter().filter(|n| *n <= bytes.len()).find(repeats);
    let Some(period) = period else {
        return Some(bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "));
    };
    // Bitwise instructions have one element of all their bytes, none of them longer than a word here.
    let period = period.max(element.size().min(8));
    let mut word = [0; 8];
    word[..period].copy_from_slice(bytes.get(..period)?);
    let bits = u64::from_le_bytes(word);
    let number = match period {
        8 => Some(f64::from_bits(bits)),
        4 => Some(f64::from(f32::from_bits(bits as u32))),
        _ => None,
    };
    let likely = number.filter(|x| *x == 0.0 || (1e-30..1e30).contains(&x.abs()));
    Some(match (element, number, likely) {
        (MemorySize::Float64 | MemorySize::Float32, Some(number), _) => format!("{number:?}"),
        // Moves and bitwise instructions are the same for integers and floats.
        (_, _, Some(number)) => format!("{bits:#x}, as f{} {number:?}", 8 * period),
        _ => format!("{bits:#x}"),
    })
}
