#ifndef _NGX_HTTP_AIQ_H_INCLUDED_
#define _NGX_HTTP_AIQ_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <aiq_link.h>
#include <aiq_frame.h>
#include <aiq_error.h>


extern ngx_module_t  ngx_http_aiq_module;


#endif /* _NGX_HTTP_AIQ_H_INCLUDED_ */
