/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For crowd.c: the same, as version 2; -DPOINT: applied where threads are at pause_point(). */
#include "../crowd.h"
#include <hotpatch.h>

DEFINE_CROWD(2, )
HOTPATCH_REPLACE(work);
HOTPATCH_REPLACE(inner);
#ifdef POINT
HOTPATCH_UPDATE_POINT(pause_point);
#endif
