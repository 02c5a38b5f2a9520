//! What a kernel needs of a multiprocessor, read from the assembler's part of the log.
//!
//! ```text
//! ptxas info    : Compiling entry function 'kernel_map' for 'sm_90'
//! ptxas info    : Function properties for kernel_map
//! ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
//! ptxas info    : Used 25 registers, used 1 barriers, 132 bytes smem
//! ```
//!
//! The second and third line come once more for each function that an entry calls.

/// What one entry needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// The entry's name.
    pub entry: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that were stored to or loaded from memory for want of registers, in the entry and in what it calls.
    pub spills: u32,
    /// Bytes of a thread's stack, in the entry and in what it calls.
    pub stack: u32,
    /// Bytes of shared memory whose size the text tells.
    pub shared: u32,
}

/// The entries of a log, in its order. Lines that say something else are passed over.
pub(super) fn parse(log: &str) -> Vec<Usage> {
    let mut entries: Vec<Usage> = Vec::new();
    for line in log.lines() {
        // Older versions do not begin the third line with their name.
        let line =
            line.strip_prefix("ptxas").and_then(|line| line.split_once([':', '.'])).map_or(line, |(_, rest)| rest);
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Compiling entry function '") {
            let entry = rest.split('\'').next().unwrap_or_default().to_owned();
            entries.push(Usage { entry, ..Usage::default() });
        } else if let Some(usage) = entries.last_mut() {
            for part in line.split(", ") {
                let (number, what) = amount(part.trim_start_matches("Used ").trim_start_matches("used "));
                match what {
                    "registers" => usage.registers = number,
                    "bytes smem" => usage.shared = number,
                    "bytes stack frame" => usage.stack += number,
                    "bytes spill stores" | "bytes spill loads" => usage.spills += number,
                    _ => {}
                }
            }
        }
    }
    entries
}

/// `25 registers` as a number and a word; what does not begin with a number is not of interest.
fn amount(text: &str) -> (u32, &str) {
    let (number, what) = text.split_once(' ').unwrap_or((text, ""));
    number.parse().map_or((0, ""), |number| (number, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = "\
kernel.cu(1): warning #550-D: variable \"a\" was set but never used
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'kernel_a' for 'sm_90'
ptxas info    : Function properties for kernel_a
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 25 registers, used 1 barriers, 16 bytes cumulative stack size, 132 bytes smem, 400 bytes cmem[0]
ptxas info    : Function properties for called
ptxas         .     32 bytes stack frame, 0 bytes spill stores, 2 bytes spill loads
ptxas info    : Compile time = 28.564 ms
ptxas info    : Compiling entry function 'kernel_b' for 'sm_90'
ptxas info    : Function properties for kernel_b
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 4 registers, used 0 barriers
";
        let usage = |entry: &str, registers, spills, stack, shared| Usage {
            entry: entry.to_owned(),
            registers,
            spills,
            stack,
            shared,
        };
        assert_eq!(parse(log), [usage("kernel_a", 25, 14, 48, 132), usage("kernel_b", 4, 0, 8, 0)]);
        assert_eq!(parse(""), []);
        assert_eq!(parse("ptxas\nptxas info : Used many registers, 3"), []);
    }
}
