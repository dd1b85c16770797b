/* tests/kernels/device_contract.h - what every device promises (kernels/device.h), whichever it is.
 *
 * Only what the interface offers is used, copies above all, so the same source runs on the CPU, on emulated
 * streams however they progress, and on a GPU.
 */
#ifndef DML_TEST_DEVICE_CONTRACT_H
#define DML_TEST_DEVICE_CONTRACT_H

#include "kernels/device.h"

/* Fails the cmocka test that calls it when a promise is broken. */
void device_contract(const dml_device_api *api);

#endif
