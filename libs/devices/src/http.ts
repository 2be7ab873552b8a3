export { ApiTokensController, AuditController, DevicesController, EnrolmentTokensController, MeController, type DeviceDoor } from './devices.http.ts';
export { DevicesResolver } from './devices.graphql.ts';
