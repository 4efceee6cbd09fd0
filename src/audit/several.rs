//! Nearly always one.

use std::ops::{Deref, DerefMut};

/// One or several of something; one takes no memory apart.
#[derive(Clone, Debug)]
pub(super) enum Several<T> {
    One([T; 1]),
    Many(Vec<T>),
}

impl<T> Several<T> {
    pub(super) const fn one(one: T) -> Self {
        Self::One([one])
    }

    /// What `of` says of each.
    pub(super) fn each<U>(&self, mut of: impl FnMut(&T) -> U) -> Several<U> {
        match self {
            Self::One([one]) => Several::one(of(one)),
            Self::Many(many) => Several::Many(many.iter().map(of).collect()),
        }
    }

    pub(super) fn map<U>(self, change: impl FnMut(T) -> U) -> Several<U> {
        match self {
            Self::One(one) => Several::One(one.map(change)),
            Self::Many(many) => Several::Many(many.into_iter().map(change).collect()),
        }
    }

    pub(super) fn try_map<U, E>(
        self,
        mut change: impl FnMut(T) -> Result<U, E>,
    ) -> Result<Several<U>, E> {
        Ok(match self {
            Self::One([one]) => Several::one(change(one)?),
            Self::Many(many) => {
                Several::Many(many.into_iter().map(change).collect::<Result<_, _>>()?)
            }
        })
    }

    /// The last one.
    pub(super) fn last(self) -> Option<T> {
        match self {
            Self::One([one]) => Some(one),
            Self::Many(mut many) => many.pop(),
        }
    }

    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => Vec::from(one),
            Self::Many(many) => many,
        }
    }
}

impl<T> From<Vec<T>> for Several<T> {
    fn from(many: Vec<T>) -> Self {
        Self::Many(many)
    }
}

impl<T> Deref for Several<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

impl<T> DerefMut for Several<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}
