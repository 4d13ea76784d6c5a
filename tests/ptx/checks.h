/* checks.h - what checks.c and order.c share. */
#ifndef PTX_CHECKS_H
#define PTX_CHECKS_H

#include "machine.h"

/* Is all that these lanes of an actor did up to `time` ordered before the owner of the clock? cluster: its
 * number, or 0 for the owner's own one. */
bool ptx_clock_knows(const Clock *c, u32 cluster, u32 actor, u32 lanes, u32 time);
bool ptx_clock_knows_any_lane(const Clock *c, u32 actor, u32 time); /* of the own cluster */
u32 ptx_cluster_number(const Warp *w); /* of its cluster: unique in the process, never 0 */
u32 ptx_now(Warp *w);                  /* the warp's own time */
void ptx_order_free_cta(Cta *c);
void ptx_order_end_launch(void);

#endif
