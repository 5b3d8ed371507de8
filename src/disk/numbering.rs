//! The search for the number that a taken name gets: `name (1)`, `name (2)` and so on.

/// Numbers that are tried in order before [`gallop`] skips some.
pub(super) const IN_ORDER: u32 = 16;

/// Returns a free number above `taken` whose predecessor is taken. Checks the numbers 16, 48, 112 and so on
/// above `taken` until one is free, then bisects. It may miss free numbers below. It checks about
/// 2 × log2(n) numbers for n taken names, where a search in order checks n.
///
/// # Errors
/// Fails if `is_taken` fails.
pub(super) fn gallop<E>(
    mut taken: u32,
    mut is_taken: impl FnMut(u32) -> Result<bool, E>,
) -> Result<u32, E> {
    let mut step = IN_ORDER;
    let mut free = loop {
        let number = taken.saturating_add(step);
        if number == u32::MAX || !is_taken(number)? {
            break number;
        }
        taken = number;
        step = step.saturating_mul(2);
    };
    while free - taken > 1 {
        let middle = taken + (free - taken) / 2;
        if is_taken(middle)? {
            taken = middle;
        } else {
            free = middle;
        }
    }
    debug_assert!(taken < free);
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_number_above_a_run_of_taken_ones_costs_few_looks() {
        for last in [17, 18, 31, 32, 33, 48, 49, 1000, 99_999, 100_000, 1 << 31, u32::MAX - 1] {
            let mut looks = 0;
            let number = gallop(IN_ORDER, |number| {
                looks += 1;
                Ok::<_, ()>(number <= last)
            });
            assert_eq!(number, Ok(last + 1));
            assert!(looks <= 64, "{looks} looks for {last}");
        }
        assert_eq!(gallop(3, |_| Err::<bool, _>("failed")), Err("failed"));
    }

    #[test]
    fn a_gap_is_free() {
        let number = gallop(16, |number| Ok::<_, ()>(number % 8 != 0)).unwrap();
        assert_eq!(number, 24);
    }
}
