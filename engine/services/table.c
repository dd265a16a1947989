#include "services/service.h"

/* Every service. A new one is a line here and its name in service.h. */
const aiq_service *const aiq_services[] = {
    &service_charge,  &service_control, &service_echo,    &service_events,
    &service_gateway, &service_health,  &service_metrics, NULL,
};
