/*
 * What DPDK offers only as static inline functions or thread-local variables, given linkable names.
 *
 * On the packet's path: one call per burst, never one per packet (a call costs about a nanosecond). Everything that only
 * touches fields of an mbuf is done in Rust instead.
 */
#ifndef TOWPATH_DPDK_SHIM_H
#define TOWPATH_DPDK_SHIM_H

#include <stdint.h>
#include <stdio.h>

struct rte_mbuf;
struct rte_mempool;
struct rte_ring;

/* The calling thread's rte_errno. */
int shim_errno(void);
/* The calling thread's lcore, LCORE_ID_ANY when it has none. */
uint32_t shim_lcore_id(void);

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool);
/* 0, or a negative errno and nothing allocated. */
void shim_mempool_empty_cache(struct rte_mempool *pool);

int shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count);
void shim_mbuf_free(struct rte_mbuf *mbuf);

/* Both honour the flags that the ring was made with, and return how many they moved. */
uint32_t shim_ring_enqueue_burst(struct rte_ring *ring, void *const *objects, uint32_t count);
uint32_t shim_ring_dequeue_burst(struct rte_ring *ring, void **objects, uint32_t count);
uint32_t shim_ring_count(const struct rte_ring *ring);

/* The time stamp counter, for targets on which Rust has no intrinsic for it. */
uint64_t shim_tsc(void);

/* Receives one log message: its level (RTE_LOG_*) and its bytes, which end with a newline as a rule. */
typedef void (*shim_log_sink)(uint32_t level, const char *bytes, size_t length);
/* Sends EAL's and every driver's log messages to the sink from now on. 0, or -1 if the stream can't be opened. */
int shim_log_to(shim_log_sink sink);

#endif
