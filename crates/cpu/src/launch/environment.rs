//! The floating point state of a thread: the default one while it runs compiled code, the host's before and after.
//!
//! Invariant: the host's control word is restored whenever it was another one; its sticky flags are nobody's concern.

/// Restores the host's floating point control word, if it was not the default one.
pub(super) struct FloatEnvironment(Option<u64>);

/// The x86 control word: round to nearest, subnormals kept, exceptions masked; and the bits that are control, not
/// sticky flags.
#[cfg(target_arch = "x86_64")]
const FLOAT_CONTROL: (u64, u64) = (0x1f80, 0xffc0);
/// The same on aarch64.
#[cfg(target_arch = "aarch64")]
const FLOAT_CONTROL: (u64, u64) = (0, 0x07f7_9f00);

impl FloatEnvironment {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline]
    pub fn enter() -> FloatEnvironment {
        let host = float_control();
        let (default, mask) = FLOAT_CONTROL;
        if host & mask == default & mask {
            return FloatEnvironment(None);
        }
        set_float_control(default);
        FloatEnvironment(Some(host))
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn enter() -> FloatEnvironment {
        FloatEnvironment(None)
    }
}

impl Drop for FloatEnvironment {
    fn drop(&mut self) {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if let Some(host) = self.0 {
            set_float_control(host);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn float_control() -> u64 {
    let mut word = 0u32;
    // SAFETY: stores the control word to a local.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut word, options(nostack, preserves_flags)) };
    u64::from(word)
}

#[cfg(target_arch = "x86_64")]
fn set_float_control(word: u64) {
    let word = word as u32;
    // SAFETY: loads a valid control word: the default one, or one that was read before.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &word, options(nostack, preserves_flags, readonly)) };
}

#[cfg(target_arch = "aarch64")]
fn float_control() -> u64 {
    let word: u64;
    // SAFETY: reads a register.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) word, options(nomem, nostack, preserves_flags)) };
    word
}

#[cfg(target_arch = "aarch64")]
fn set_float_control(word: u64) {
    // SAFETY: writes a valid control word: the default one, or one that was read before.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) word, options(nomem, nostack, preserves_flags)) };
}
