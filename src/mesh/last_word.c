// SPDX-License-Identifier: Apache-2.0
// The end of a mesh. A rank whose wait has lasted too long, or that finds what must not be, tells all others its last
// word: why, and which wait of the flow it stands in. They answer with their own, and within a moment each rank holds
// the same words and takes the same one: a rank that waits for one that waits itself must not name the wrong culprit.
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "mesh/mesh.h"

static const double grace = 1.5;                // seconds in which the words of the living arrive
static const struct timespec nap = {0, 200000}; // between two looks
static const size_t head = offsetof(struct mb_word, message);

// Takes a word out of the transport into *out; false: none is here. A broken transport shows in the wait itself.
static bool take(moeblock_mesh *mesh, struct mb_word *out)
{
    size_t bytes = 0;
    struct mb_word word;
    if (mesh->transport.look(mesh->transport.user, MB_TAG_WORD, &word, sizeof word, &bytes, NULL) || !bytes)
        return false;
    if (bytes <= head || bytes > sizeof word || word.rank < 0 || word.rank >= mesh->size) return false;
    ((char *)&word)[bytes - 1] = '\0';
    *out = word;
    mb_escape(out->message, sizeof out->message, word.message);
    return true;
}

bool mb_mesh_listen(moeblock_mesh *mesh)
{
    struct mb_word word;
    while (!mesh->heard.said && take(mesh, &word)) {
        mesh->said[word.rank] = 1;
        if (word.code) mesh->heard = word; // an answer to another's word may be here before that
    }
    return mesh->heard.said;
}

// Short enough to leave at once; whether it arrives is not waited for.
static void tell_all(moeblock_mesh *mesh)
{
    const moeblock_transport *t = &mesh->transport;
    for (int peer = 0; peer < mesh->size; peer++) {
        uint64_t transfer;
        int which;
        size_t moved;
        if (peer == mesh->rank) continue;
        if (t->send(t->user, peer, MB_TAG_WORD, &mesh->word, head + strlen(mesh->word.message) + 1, &transfer, NULL))
            continue;
        if (t->poll(t->user, &transfer, 1, &which, &moved, NULL) || which < 0) t->abandon(t->user, &transfer, 1);
    }
}

// Whether a word blames a rank that has said nothing: more likely the cause than one that waits itself.
static bool blames_silent(const moeblock_mesh *mesh, const struct mb_word *word)
{
    return word->about >= 0 && word->about < mesh->size && !mesh->said[word->about];
}

// Whether all prefer word `a`: what was found before what was waited for in vain; then the earlier wait; of one wait
// the word that blames a silent rank; then the lower rank.
static bool before(const moeblock_mesh *mesh, const struct mb_word *a, const struct mb_word *b)
{
    const bool found_a = a->code != MOEBLOCK_TIMEOUT, found_b = b->code != MOEBLOCK_TIMEOUT;
    if (found_a != found_b) return found_a;
    if (a->wait != b->wait) return a->wait < b->wait;
    const bool silent_a = blames_silent(mesh, a), silent_b = blames_silent(mesh, b);
    return silent_a != silent_b ? silent_a : a->rank < b->rank;
}

static const struct mb_word *choose(const moeblock_mesh *mesh, const struct mb_word *words)
{
    const struct mb_word *best = NULL;
    for (const struct mb_word *word = words; word < words + mesh->size; word++)
        if (word->said && word->code && (!best || before(mesh, word, best))) best = word;
    return best;
}

// Everyone's words, as far as they come in time.
static void collect(moeblock_mesh *mesh, struct mb_word *words)
{
    struct mb_word word;
    const double since = mb_seconds();
    words[mesh->rank] = mesh->word;
    if (mesh->heard.said) words[mesh->heard.rank] = mesh->heard;
    mesh->said[mesh->rank] = 1;
    for (;;) {
        while (take(mesh, &word)) {
            mesh->said[word.rank] = 1;
            words[word.rank] = word;
        }
        // A transport that blocks has no deadlines, and no ranks that wait without an end.
        const bool all = !memchr(mesh->said, 0, (size_t)mesh->size);
        if (all || mesh->transport.blocks || mb_seconds() - since > grace) return;
        nanosleep(&nap, NULL);
    }
}

static moeblock_status conclude(moeblock_mesh *mesh, moeblock_error *error)
{
    mb_mesh_abandon(mesh);
    tell_all(mesh);
    struct mb_word *words = mb_alloc_zero(&mesh->allocator, (size_t)mesh->size * sizeof *words);
    const struct mb_word *chosen = mesh->word.code ? &mesh->word : &mesh->heard; // without memory
    if (words) {
        collect(mesh, words);
        chosen = choose(mesh, words);
    }
    mesh->dead = true;
    mesh->failed_rank = chosen->rank;
    mesh->death.code = chosen->code > 0 ? (moeblock_status)chosen->code : MOEBLOCK_PEER_FAILED;
    memcpy(mesh->death.message, chosen->message, sizeof mesh->death.message);
    mb_free(&mesh->allocator, words);
    if (error) *error = mesh->death;
    return mesh->death.code;
}

static void speak(moeblock_mesh *mesh, moeblock_status code, int about, const char *text)
{
    moeblock_error named = {MOEBLOCK_OK, ""};
    mb_fail(&named, code, "rank %d: %s; the mesh is dead", mesh->rank, text);
    mesh->word =
        (struct mb_word){.rank = mesh->rank, .code = (int32_t)code, .about = about, .said = 1, .wait = mesh->waits};
    memcpy(mesh->word.message, named.message, sizeof mesh->word.message);
}

moeblock_status mb_mesh_die(moeblock_mesh *mesh, moeblock_error *error, moeblock_status code, const char *format, ...)
{
    char text[sizeof mesh->word.message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    speak(mesh, code, -1, text);
    return conclude(mesh, error);
}

moeblock_status mb_mesh_give_up(moeblock_mesh *mesh, moeblock_error *error, int about, double waited,
                                const char *format, ...)
{
    char text[sizeof mesh->word.message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    speak(mesh, MOEBLOCK_TIMEOUT, about, text);
    // Who is told while it waits adds to it where it stands before the teller in the flow, and may be what that one
    // waits for; or beside it, for as long.
    const struct mb_word *heard = mesh->heard.said ? &mesh->heard : NULL;
    if (heard && (heard->code != MOEBLOCK_TIMEOUT || heard->wait < mesh->waits ||
                  (heard->wait == mesh->waits && waited < mesh->deadline / 2)))
        mesh->word.code = MOEBLOCK_OK;
    return conclude(mesh, error);
}
