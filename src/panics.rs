//! Panics as values: what was said and where, so that whoever survives one can log it once and completely.
//!
//! The place of a panic is known only to the process's panic hook. The first [`catch`] puts a hook before the one that is
//! there. It keeps panics that are about to be caught, and passes all others on.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    fmt,
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook},
    sync::{Mutex, Once, PoisonError},
};

/// A panic that was caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked {
    /// What was said.
    pub reason: String,
    /// File, line and column in which it began, or `unknown`.
    pub location: String,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at {})", self.reason, self.location)
    }
}

thread_local! {
    /// How many calls of [`catch`] this thread is in.
    static CATCHING: Cell<usize> = const { Cell::new(0) };
    /// The last panic of this thread that is being caught.
    static CAUGHT: RefCell<Option<Panicked>> = const { RefCell::new(None) };
}

/// The last panic of a thread that does not catch them itself. A compute thread's is passed on to the thread that waits for
/// it, as a panic without a place.
static PASSED_ON: Mutex<Option<Panicked>> = Mutex::new(None);

static HOOK: Once = Once::new();

/// Runs `work`, and returns its panic if it has one.
///
/// # Errors
/// The panic. What `work` has changed may be inconsistent then, and the caller must not use it any more.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !keep(panic) {
                before(panic);
            }
        }));
    });
    CATCHING.set(CATCHING.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(CATCHING.get() - 1);
    outcome.map_err(|payload| {
        let own = CAUGHT.take();
        let elsewhere = || PASSED_ON.lock().unwrap_or_else(PoisonError::into_inner).take();
        own.or_else(elsewhere).unwrap_or_else(|| Panicked {
            reason: said(&*payload),
            location: "unknown".to_owned(),
        })
    })
}

/// Remembers a panic. Returns whether somebody catches it, who will report it.
fn keep(panic: &PanicHookInfo<'_>) -> bool {
    let location = panic.location().map(ToString::to_string);
    let panicked = Panicked {
        reason: said(panic.payload()),
        location: location.unwrap_or_else(|| "unknown".to_owned()),
    };
    let is_caught = CATCHING.get() > 0;
    if is_caught {
        CAUGHT.set(Some(panicked));
    } else {
        *PASSED_ON.lock().unwrap_or_else(PoisonError::into_inner) = Some(panicked);
    }
    is_caught
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no reason given".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_returned_with_its_words_and_its_place() {
        let line = line!() + 1;
        let panicked = catch(|| panic!("number {}", 7)).unwrap_err();
        assert_eq!(panicked.reason, "number 7");
        let place = format!("{}:{line}:", file!());
        assert!(panicked.location.starts_with(&place), "{}", panicked.location);
        assert_eq!(catch(|| 5), Ok(5));
    }

    #[test]
    fn the_inner_of_two_catches_takes_the_panic() {
        let outer = catch(|| {
            let inner = catch(|| panic!("inner")).unwrap_err();
            assert_eq!(inner.reason, "inner");
            panic!("outer");
        });
        assert_eq!(outer.unwrap_err().reason, "outer");
    }
}
