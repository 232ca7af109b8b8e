// SPDX-License-Identifier: Apache-2.0
// Words that were probably meant: how far one is from another, and the nearest of a list.
#ifndef MB_BASE_WORDS_H
#define MB_BASE_WORDS_H

// Edit distance (insert, delete, replace); words of more than 64 bytes are far from everything.
int mb_edit_distance(const char *a, const char *b);
// Edits beyond which a word is another word, not a slip.
int mb_edit_tolerance(const char *word);
// The one of `names` (ended by NULL) that is nearest to `name`; NULL when none is near.
const char *mb_nearest_name(const char *name, const char *const *names);

#endif
