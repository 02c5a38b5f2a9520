//! Prints a kernel for people: `numfuse explain` and the corpus.

use super::{Access, Inst, Kernel, Level, Nest, Role, StageKind};
use std::fmt;

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nest = match self.nest {
            Nest::Rows => "rows",
            Nest::Columns => "columns",
        };
        writeln!(f, "kernel {nest} {{")?;
        for (i, operand) in self.operands.iter().enumerate() {
            let role = match operand.role {
                Role::In => "in ",
                Role::Out => "out",
            };
            let level = match (operand.level, operand.access) {
                (Level::Row, _) => "per row",
                (Level::Inner, Access::Unit) => "unit stride",
                (Level::Inner, Access::Broadcast) => "broadcast",
                (Level::Inner, Access::Strided) => "strided",
            };
            writeln!(f, "  {role} m{i}: {}, {level}", operand.dtype)?;
        }
        for (i, dtype) in self.params.iter().enumerate() {
            writeln!(f, "  param p{i}: {dtype}")?;
        }
        for (i, dtype) in self.scratch.iter().enumerate() {
            writeln!(f, "  scratch s{i}: {dtype}, one row")?;
        }
        for (s, stage) in self.stages.iter().enumerate() {
            if stage.start == stage.end && self.reductions_of(s).next().is_none() {
                continue;
            }
            let head = match (stage.kind, self.nest, s) {
                (StageKind::Row, Nest::Rows, _) => "row",
                (StageKind::Row, Nest::Columns, _) => "each reduced row",
                (StageKind::Loop, Nest::Columns, 2) => "each column",
                (StageKind::Loop, ..) => "loop",
            };
            writeln!(f, "  {head} {{")?;
            for v in stage.values() {
                let dtype = self.dtype(v);
                match self.inst(v) {
                    Inst::Const(literal) => writeln!(f, "    {v} = {literal}: {dtype}")?,
                    Inst::Param(n) => writeln!(f, "    {v} = p{n}: {dtype}")?,
                    Inst::Arg(n) => writeln!(f, "    {v} = arg{n}: {dtype}")?,
                    Inst::Prim(prim, args) => {
                        write!(f, "    {v} = {}", prim.name())?;
                        for (i, a) in args.iter().enumerate() {
                            write!(f, "{} {a}", if i == 0 { "" } else { "," })?;
                        }
                        writeln!(f, ": {dtype}")?;
                    }
                    Inst::Load(n) => writeln!(f, "    {v} = load m{n}: {dtype}")?,
                    Inst::Store(n, x) => writeln!(f, "    store m{n}, {x}")?,
                    Inst::ScratchLoad(n) => writeln!(f, "    {v} = load s{n}: {dtype}")?,
                    Inst::ScratchStore(n, x) => writeln!(f, "    store s{n}, {x}")?,
                    Inst::Reduced(n) => writeln!(f, "    {v} = r{n}: {dtype}")?,
                }
            }
            for (i, r) in self.reductions_of(s) {
                writeln!(f, "    r{i} = {} {}: {}", r.reducer.name(), r.input, r.dtype)?;
            }
            writeln!(f, "  }}")?;
        }
        write!(f, "}}")
    }
}
